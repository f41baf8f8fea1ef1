//! Functions of the API that are not built. They are there, since a missing symbol ends a program that looks for it,
//! and they say that they do nothing.

use crate::{CudaResult, Status, complain};

macro_rules! absent {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> CudaResult {
                complain(Status::NotSupported, concat!(stringify!($name), " is not built")) as u32
            }
        )*
    };
}

absent! {
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxSetLimit cuCtxGetLimit cuCtxSetCacheConfig
    cuCtxGetCacheConfig cuCtxPushCurrent_v2 cuCtxPopCurrent_v2 cuCtxEnablePeerAccess
    cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool cuDeviceCanAccessPeer
    cuMemPoolCreate cuMemPoolDestroy cuMemPoolTrimTo cuMemPoolSetAttribute cuMemPoolGetAttribute
    cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAdvise_v2 cuMemPrefetchAsync_v2 cuMemcpyPeerAsync
    cuMemcpy cuMemcpyAsync cuMemcpy2D_v2 cuMemHostRegister_v2 cuMemHostUnregister cuMemHostGetDevicePointer_v2
    cuPointerGetAttribute cuStreamAttachMemAsync cuStreamGetCaptureInfo_v3 cuLaunchHostFunc
    cuLaunchCooperativeKernel
    cuImportExternalMemory cuExternalMemoryGetMappedBuffer cuDestroyExternalMemory
    cuOccupancyMaxPotentialClusterSize cuOccupancyMaxActiveClusters cuProfilerStart cuProfilerStop
    cuLibraryLoadData cuLibraryUnload cuLibraryGetKernel
    cuKernelGetFunction cuLinkCreate_v2 cuGetProcAddress_v2 cuFuncGetName cuGraphCreate cuGraphAddKernelNode_v2
    cuGraphAddMemcpyNode cuGraphExecUpdate_v2 cuTensorMapEncodeIm2col cuTensorMapReplaceAddress
}
