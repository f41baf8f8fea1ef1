//! What the tests of this folder share. Each file is a process of its own: a process has one device, and an error of
//! the driver stays.
#![allow(dead_code)]

use cudarc::driver::{CudaContext, sys};
use diptych_nvrtc::{Compiled, Form, KernelCache, Nvrtc, find_nvrtc};
use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::sync::Arc;

/// The library that cargo built with this test.
pub fn library() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let folder = executable.parent().unwrap();
    let name = "libdiptych_virtual_driver.so";
    let places = [folder.join(name), folder.parent().unwrap().join(name)];
    places.into_iter().find(|place| place.exists()).expect("cargo builds the library of this package")
}

/// Loads the stand-in before cudarc looks for a driver, and chooses the device.
pub fn load(target: &str) -> libloading::Library {
    // SAFETY: the library runs no code of its own when it is loaded.
    let library = unsafe { libloading::Library::new(library()) }.unwrap();
    let target = CString::new(target).unwrap();
    // SAFETY: the signature is that of `extra.rs`.
    unsafe {
        let configure: libloading::Symbol<unsafe extern "C" fn(*const c_char, usize) -> u32> =
            library.get(b"diptych_virtual_gpu_configure\0").unwrap();
        assert_eq!(configure(target.as_ptr(), 1 << 30), 0);
    }
    library
}

pub fn context(target: &str) -> (libloading::Library, Arc<CudaContext>) {
    let library = load(target);
    // SAFETY: only asks whether a library can be opened.
    assert!(unsafe { sys::is_culib_present() });
    (library, CudaContext::new(0).unwrap())
}

/// Compiled for a target, or `None` with a reason printed where NVRTC is not installed.
pub fn compiled(source: &str, target: &str, form: Form) -> Option<Compiled> {
    let path = match find_nvrtc() {
        Ok(path) => path,
        Err(error) => {
            assert!(error.named.is_none(), "{error}");
            println!("skipped: {error}");
            return None;
        }
    };
    let nvrtc = Nvrtc::open(&path).unwrap();
    let compiled =
        KernelCache::standard().compile(&nvrtc, source, "kernel.cu", target.parse().unwrap(), form);
    Some(compiled.unwrap_or_else(|error| panic!("{error}")))
}

/// The text of the check that failed; makes launches possible again.
pub fn take_diagnostic(library: &libloading::Library) -> String {
    text(library, b"diptych_virtual_gpu_take_diagnostic\0")
}

pub fn text(library: &libloading::Library, function: &[u8]) -> String {
    let mut buffer = vec![0u8; 1 << 16];
    // SAFETY: the signature is that of `extra.rs`.
    let length = unsafe {
        let function: libloading::Symbol<unsafe extern "C" fn(*mut c_char, usize) -> usize> =
            library.get(function).unwrap();
        function(buffer.as_mut_ptr().cast(), buffer.len())
    };
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// PTX by hand, so that these tests need no compiler: y[i] = a x[i] + y[i].
pub const AXPY: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry axpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n) {
    .reg .pred %p<2>; .reg .b32 %r<6>; .reg .f32 %f<5>; .reg .b64 %d<6>;
    ld.param.u64 %d0, [x];
    ld.param.u64 %d1, [y];
    ld.param.f32 %f0, [a];
    ld.param.u32 %r0, [n];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    setp.ge.u32 %p0, %r4, %r0;
    @%p0 bra END;
    mul.wide.u32 %d2, %r4, 4;
    add.s64 %d3, %d0, %d2;
    add.s64 %d4, %d1, %d2;
    ld.global.f32 %f1, [%d3];
    ld.global.f32 %f2, [%d4];
    fma.rn.f32 %f3, %f0, %f1, %f2;
    st.global.f32 [%d4], %f3;
END:
    ret;
}
";
