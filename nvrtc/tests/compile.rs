//! NVRTC on small real texts: what comes out, what is said of what it refuses, what kernels use.

mod common;

use common::{cubin, nvrtc};
use diptych_nvrtc::{Form, Nvrtc, NvrtcError, Target};

const AXPY: &str = r#"
extern "C" __global__ void axpy(float a, const float* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        y[i] = a * x[i] + y[i];
}
"#;

fn ptx(nvrtc: &Nvrtc, source: &str) -> String {
    nvrtc.compile(source, "axpy.cu", Target::SM_80, Form::Ptx).unwrap().ptx
}

#[test]
fn ptx_has_source_lines_and_nothing_is_fused_unasked() {
    let Some(nvrtc) = nvrtc() else { return };
    let text = ptx(&nvrtc, AXPY);
    assert!(text.contains(".target sm_80") && text.contains(".visible .entry axpy("), "{text}");
    // The product stands in line 5 of the text.
    assert!(text.contains(".loc\t1 5 "), "{text}");
    assert!(text.contains(".file\t1 \"axpy.cu\""), "the working directory must not show: {text}");
    assert!(text.contains("mul.rn.f32") && text.contains("add.rn.f32") && !text.contains("fma"), "{text}");
    let asked = ptx(&nvrtc, &AXPY.replace("a * x[i] + y[i]", "fmaf(a, x[i], y[i]) / sqrtf(a)"));
    for exact in ["fma.rn.f32", "div.rn.f32", "sqrt.rn.f32"] {
        assert!(asked.contains(exact), "{exact}: {asked}");
    }
    assert!(!text.contains('\0') && !text.contains(".ftz") && !asked.contains(".ftz"));
}

#[test]
fn a_cubin_is_machine_code_for_each_target_and_says_what_it_uses() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = format!(
        "{AXPY}\nextern \"C\" __global__ void shares(int* x) {{ __shared__ int s[33]; s[threadIdx.x % 33] = x[0]; \
         __syncthreads(); x[1] = s[(threadIdx.x + 1) % 33]; }}"
    );
    for target in [Target::SM_80, Target::SM_90A, Target::SM_100A] {
        let compiled = cubin(&nvrtc, &source, target);
        assert_eq!(&compiled.cubin[..4], b"\x7fELF");
        let [axpy, shares] = ["axpy", "shares"].map(|name| compiled.kernel(name).unwrap());
        assert_eq!(compiled.kernels.len(), 2);
        assert!((4..=32).contains(&axpy.registers), "{axpy:?}");
        assert_eq!((axpy.shared_bytes, axpy.barriers, axpy.stack_bytes), (0, 0, 0));
        assert_eq!(shares.barriers, 1);
        // sm_100 keeps 1 KiB of each block for itself.
        assert_eq!(shares.shared_bytes % 1024, 33 * 4, "{shares:?}");
    }
}

#[test]
fn the_same_text_gives_the_same_bytes() {
    let Some(nvrtc) = nvrtc() else { return };
    let compile = |form| nvrtc.compile(AXPY, "axpy.cu", Target::SM_90A, form).unwrap();
    for form in [Form::Ptx, Form::Cubin, Form::Both] {
        let [one, two] = [0, 1].map(|_| compile(form));
        // The log has the seconds that it took.
        assert_eq!((one.ptx, one.cubin, one.kernels), (two.ptx, two.cubin, two.kernels));
    }
    let [ptx, cubin, both] = [Form::Ptx, Form::Cubin, Form::Both].map(compile);
    assert_eq!((&both.ptx, &both.kernels), (&ptx.ptx, &cubin.kernels));
    assert!(ptx.cubin.is_empty() && cubin.ptx.is_empty() && both.cubin.starts_with(b"\x7fELF"));
}

#[test]
fn threads_may_compile_at_once() {
    let Some(nvrtc) = nvrtc() else { return };
    let expected = ptx(&nvrtc, AXPY);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ptx(&Nvrtc::find().unwrap(), AXPY))).collect();
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), expected));
    });
}

/// What is said of a text that must be refused.
fn refused(nvrtc: &Nvrtc, source: &str, target: Target, form: Form) -> String {
    let error = nvrtc.compile(source, "bad.cu", target, form).unwrap_err();
    assert!(matches!(error, NvrtcError::Refused { .. }), "{error}");
    error.to_string()
}

#[test]
fn mistakes_in_the_text_are_shown_with_their_lines() {
    let Some(nvrtc) = nvrtc() else { return };
    let bad = AXPY.replace("x[i] + y[i]", "z[i] + y[i]");
    for form in [Form::Ptx, Form::Cubin] {
        let message = refused(&nvrtc, &bad, Target::SM_80, form);
        assert!(message.contains("`bad.cu` for sm_80"), "{message}");
        assert!(message.contains("bad.cu(5)") && message.contains("y[i] = a * z[i] + y[i];"), "{message}");
    }
}

#[test]
fn mistakes_in_inline_ptx_are_shown_with_their_lines_in_both() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = "extern \"C\" __global__ void k(float* x) {\n    x[0] = 1.0f;\n    \
                  asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\");\n}\n";
    // PTX is checked by the assembler alone, and so is what a target lacks.
    nvrtc.compile(source, "bad.cu", Target::SM_80, Form::Ptx).unwrap();
    nvrtc.compile(source, "good.cu", Target::SM_90A, Form::Cubin).unwrap();
    for target in ["sm_80", "sm_90", "sm_100a"] {
        let message = refused(&nvrtc, source, target.parse().unwrap(), Form::Cubin);
        assert!(message.contains("'wgmma.fence' not supported on .target"), "{message}");
        assert!(
            message.contains("\n    wgmma.fence.sync.aligned;\n  bad.cu(3):\n    asm volatile("),
            "{message}"
        );
    }
}

#[test]
fn targets_that_nvrtc_does_not_know_are_refused_with_those_that_it_does() {
    let Some(nvrtc) = nvrtc() else { return };
    // sm_80 has no instructions that sm_86 lacks, so there is no sm_80a.
    for target in ["sm_30", "sm_999", "sm_80a"] {
        let error =
            nvrtc.compile(AXPY, "axpy.cu", target.parse().unwrap(), Form::Cubin).unwrap_err().to_string();
        assert!(error.contains(&format!("does not compile for {target}")), "{error}");
        assert!(error.contains("sm_90,") && error.contains("libnvrtc"), "{error}");
    }
}

#[test]
fn a_nul_is_no_text() {
    let Some(nvrtc) = nvrtc() else { return };
    let compile =
        |source: &str, name: &str| nvrtc.compile(source, name, Target::SM_80, Form::Ptx).unwrap_err();
    let message = compile("int\0x;", "k.cu").to_string();
    assert!(message.contains("the source of the kernel `k.cu` has a NUL character at byte 3"), "{message}");
    let message = compile("int x;", "k\0.cu").to_string();
    assert!(message.contains("the name of the kernel `k\\0.cu`"), "{message}");
}

#[test]
fn what_is_no_nvrtc_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("libnvrtc.so.13");
    assert!(matches!(Nvrtc::open(&missing), Err(NvrtcError::Load { .. })));
    std::fs::write(&missing, "not a library").unwrap();
    let message = Nvrtc::open(&missing).unwrap_err().to_string();
    assert!(message.contains("libnvrtc.so.13") && message.contains("setup/cuda.sh"), "{message}");
    #[cfg(target_os = "linux")]
    if let Some(other) = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6"].iter().find_map(|path| {
        let path = std::path::Path::new(path);
        path.exists().then_some(path)
    }) {
        let message = Nvrtc::open(other).unwrap_err().to_string();
        assert!(message.contains("has no function `nvrtcVersion`"), "{message}");
    }
}

#[test]
fn spills_are_found_in_kernels_and_in_what_they_call() {
    let Some(nvrtc) = nvrtc() else { return };
    for target in [Target::SM_80, Target::SM_90A] {
        let compiled = cubin(&nvrtc, include_str!("kernels/crowded.cu"), target);
        for name in ["crowded", "aside"] {
            let kernel = compiled.kernel(name).unwrap();
            // At the very least what 96 sums need beyond 64 registers of 4 bytes.
            let least = (96 - 64) * 4;
            assert!(kernel.registers <= 64, "{kernel:?}");
            assert!(kernel.spill_stores >= least && kernel.spill_loads >= least, "{kernel:?}");
            assert!(kernel.stack_bytes >= least, "{kernel:?}");
        }
        for name in ["roomy", "aside_roomy"] {
            let kernel = compiled.kernel(name).unwrap();
            assert!(kernel.registers >= 96, "{kernel:?}");
            assert_eq!(
                (kernel.spill_stores, kernel.spill_loads, kernel.stack_bytes),
                (0, 0, 0),
                "{kernel:?}"
            );
        }
    }
}
