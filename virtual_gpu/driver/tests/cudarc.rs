//! Unmodified cudarc on the stand-in: contexts, memory, streams, events, launches, graphs, tensor maps.

mod common;

use common::{AXPY, compiled, context, text};
use cudarc::driver::sys::{self, CUfunction_attribute, CUstreamCaptureMode};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use diptych_nvrtc::Form;
use std::ffi::{CStr, CString};

/// All in one, since a process has one device and tests would run in threads of one process.
#[test]
fn cudarc_runs_on_the_virtual_gpu() {
    let (library, context) = context("sm_90a");
    assert_eq!(context.name().unwrap(), "Virtual GPU (sm_90a)");
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    let (free, total) = context.mem_get_info().unwrap();
    assert!(free == total && total == 1 << 30);
    let stream = context.new_stream().unwrap();

    let module = context.load_module(Ptx::from_src(AXPY)).unwrap();
    let axpy = module.load_function("axpy").unwrap();
    assert!(module.load_function("missing").is_err());
    let n = 1000u32;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let device_x = stream.clone_htod(&x).unwrap();
    let mut device_y = stream.alloc_zeros::<f32>(n as usize).unwrap();
    let config = LaunchConfig { grid_dim: (4, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
    let start = context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let end = context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    start.record(&stream).unwrap();
    unsafe {
        stream.launch_builder(&axpy).arg(&device_x).arg(&mut device_y).arg(&2.0f32).arg(&n).launch(config)
    }
    .unwrap();
    end.record(&stream).unwrap();
    assert!(start.elapsed_ms(&end).unwrap() > 0.0);
    let y = stream.clone_dtoh(&device_y).unwrap();
    assert!((0..n as usize).all(|i| y[i] == 2.0 * x[i]));

    // A second stream takes part in the capture through an event.
    stream.synchronize().unwrap();
    unsafe { context.disable_event_tracking() };
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    assert!(stream.synchronize().is_err());
    let other = stream.fork().unwrap();
    unsafe {
        other.launch_builder(&axpy).arg(&device_x).arg(&mut device_y).arg(&1.0f32).arg(&n).launch(config)
    }
    .unwrap();
    stream.join(&other).unwrap();
    unsafe {
        stream.launch_builder(&axpy).arg(&device_x).arg(&mut device_y).arg(&1.0f32).arg(&n).launch(config)
    }
    .unwrap();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&device_y).unwrap(), y, "captured work must not have run");
    graph.launch().unwrap();
    graph.launch().unwrap();
    let y = stream.clone_dtoh(&device_y).unwrap();
    assert!((0..n as usize).all(|i| y[i] == 6.0 * x[i]));

    // More than 48 KiB of shared memory only where the program asks for it.
    let big = LaunchConfig { shared_mem_bytes: 100 << 10, ..config };
    let launch = |device_y: &mut _| unsafe {
        stream.launch_builder(&axpy).arg(&device_x).arg(device_y).arg(&0.0f32).arg(&n).launch(big).map(|_| ())
    };
    assert!(launch(&mut device_y).is_err());
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    axpy.set_attribute(attribute, 100 << 10).unwrap();
    launch(&mut device_y).unwrap();
    assert!(axpy.set_attribute(attribute, 228 << 10).is_err());
    assert!(axpy.occupancy_max_active_blocks_per_multiprocessor(256, 0, None).unwrap() >= 4);

    // Pinned memory, fills and copies within the device.
    let mut pinned = unsafe { context.alloc_pinned::<f32>(16) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(3.0);
    let small = stream.clone_htod(pinned.as_slice().unwrap()).unwrap();
    let copy = stream.clone_dtod(&small).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), [3.0; 16]);

    let counters = text(&library, b"diptych_virtual_gpu_counters\0");
    let line = counters.lines().find(|line| line.starts_with("axpy\t")).unwrap();
    assert_eq!(line.split('\t').nth(1), Some("6"), "{counters}");

    machine_code_is_refused(&context);
    tensor_copies(&context);
}

fn machine_code_is_refused(context: &std::sync::Arc<cudarc::driver::CudaContext>) {
    let nothing = "extern \"C\" __global__ void nothing() {}";
    let Some(nothing) = compiled(nothing, "sm_90a", Form::Cubin) else { return };
    let error = context.load_module(Ptx::from_binary(nothing.cubin)).unwrap_err();
    assert!(format!("{error:?}").contains("NO_BINARY_FOR_GPU"), "{error:?}");
}

/// A GEMM that TMA feeds, with maps made by `cuTensorMapEncodeTiled` and launched by `cuLaunchKernelEx`.
fn tensor_copies(context: &std::sync::Arc<cudarc::driver::CudaContext>) {
    let gemm = include_str!("../../tests/kernels/wgmma_gemm.cu");
    let Some(gemm) = compiled(gemm, "sm_90a", Form::Ptx) else { return };
    let stream = context.default_stream();
    let (m, n, k) = (64usize, 128usize, 64usize);
    let values = |count: usize, step: usize| -> Vec<half::bf16> {
        (0..count).map(|i| half::bf16::from_f32((i * step % 7) as f32 - 3.0)).collect()
    };
    let (a, b) = (values(m * k, 3), values(n * k, 5));
    let (device_a, device_b) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
    let device_c = stream.alloc_zeros::<half::bf16>(m * n).unwrap();
    let map = |address: u64, columns: usize, rows: usize, box_rows: u32| {
        let mut map = std::mem::MaybeUninit::<sys::CUtensorMap>::uninit();
        let (sizes, strides) = ([columns as u64, rows as u64], [columns as u64 * 2]);
        let (boxes, steps) = ([64, box_rows], [1, 1]);
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                address as *mut _,
                sizes.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .unwrap();
            map.assume_init()
        }
    };
    use cudarc::driver::DevicePtr;
    let address = |slice: &cudarc::driver::CudaSlice<half::bf16>| slice.device_ptr(&stream).0;
    let maps = [
        map(address(&device_a), k, m, 64),
        map(address(&device_b), k, n, 128),
        map(address(&device_c), n, m, 64),
    ];
    let shared = 1024 + 3 * (64 + 128) * 64 * 2 + 64 * 128 * 2;
    let depth = k as i32;
    let mut arguments = [
        (&raw const maps[0]).cast_mut().cast(),
        (&raw const maps[1]).cast_mut().cast(),
        (&raw const maps[2]).cast_mut().cast(),
        (&raw const depth).cast_mut().cast(),
    ];
    let config = |cluster: u32| {
        let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attribute.value.clusterDim =
            sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: cluster, y: 1, z: 1 };
        let attributes = Box::leak(Box::new(attribute));
        sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 160,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared as u32,
            hStream: stream.cu_stream(),
            attrs: attributes,
            numAttrs: 1,
        }
    };
    let function = unsafe { raw_function(&gemm.ptx, c"wgmma_gemm", shared) };
    let mut launch = |cluster: u32| unsafe {
        sys::cuLaunchKernelEx(&config(cluster), function, arguments.as_mut_ptr(), std::ptr::null_mut())
    };
    assert_eq!(launch(2), sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(launch(1), sys::CUresult::CUDA_SUCCESS);
    let c = stream.clone_dtoh(&device_c).unwrap();
    for row in 0..m {
        for column in 0..n {
            let sum: f32 = (0..k).map(|i| a[row * k + i].to_f32() * b[column * k + i].to_f32()).sum();
            assert_eq!(c[row * n + column], half::bf16::from_f32(sum), "row {row}, column {column}");
        }
    }
}

/// cudarc keeps the raw function of its own modules to itself.
unsafe fn raw_function(text: &str, name: &CStr, shared: i32) -> sys::CUfunction {
    let text = CString::new(text).unwrap();
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    unsafe {
        sys::cuModuleLoadData(&mut module, text.as_ptr().cast()).result().unwrap();
        sys::cuModuleGetFunction(&mut function, module, name.as_ptr()).result().unwrap();
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        sys::cuFuncSetAttribute(function, attribute, shared).result().unwrap();
    }
    function
}
