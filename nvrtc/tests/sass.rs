//! Static checks on the machine code of real kernels: a GEMM of `mma.sync`, and one of `wgmma` fed by TMA.

mod common;

use common::{cubin, nvrtc_and_nvdisasm};
use diptych_nvrtc::{KernelCode, KernelResources, Nvrtc, NvrtcError, Target, disassemble};

const SM80: &str = include_str!("kernels/gemm_sm80.cu");
const SM90A: &str = include_str!("kernels/gemm_sm90a.cu");

fn checked(nvrtc: &Nvrtc, source: &str, name: &str, target: Target) -> (KernelResources, KernelCode) {
    let compiled = cubin(nvrtc, source, target);
    let code = disassemble(&compiled.cubin).unwrap();
    assert_eq!(code.len(), 1);
    assert_eq!(code[0].name, name);
    assert_eq!(code[0].opcodes.values().sum::<u64>(), code[0].instructions);
    (compiled.kernel(name).unwrap().clone(), code.into_iter().next().unwrap())
}

#[test]
fn a_gemm_for_sm_80_uses_tensor_cores_ldmatrix_and_asynchronous_copies() {
    let Some(nvrtc) = nvrtc_and_nvdisasm() else { return };
    // Code for sm_80 runs on later GPUs too, with the same instructions.
    for target in [Target::SM_80, Target::SM_90A, Target::SM_100A] {
        let (resources, code) = checked(&nvrtc, SM80, "gemm_sm80", target);
        assert_eq!((resources.spill_stores, resources.spill_loads), (0, 0));
        // Two blocks of 256 threads at a time, in 65536 registers.
        assert!((96..=128).contains(&resources.registers), "{resources:?}");
        let main = code.main_loop.as_ref().unwrap();
        // A step of 32 in depth, for 64 rows and 32 columns of a warp: 2 x 4 x 4 instructions of 16 x 8 x 16, fed by
        // 2 x (4 + 2) of ldmatrix; of 16 KiB, a thread copies four times 16 bytes.
        assert_eq!((main.count("HMMA"), main.count("LDSM"), main.count("LDGSTS")), (32, 12, 4), "{main:?}");
        assert_eq!((main.tensor_core, main.count("BAR"), main.count("STG")), (32, 1, 0), "{main:?}");
        assert!(main.tensor_core_share() > 0.2, "{} in {main:?}", main.tensor_core_share());
        assert!(main.instructions < code.instructions);
        // Two steps before the loop.
        assert_eq!((code.count("LDGSTS"), code.count("HMMA"), code.count("HGMMA")), (12, 32, 0));
        assert_eq!(code.tensor_core(), 32);
        assert_eq!(code.count("STG"), 32);
    }
}

#[test]
fn a_gemm_for_sm_90a_is_wgmma_fed_by_tma_from_another_warp() {
    let Some(nvrtc) = nvrtc_and_nvdisasm() else { return };
    let (resources, code) = checked(&nvrtc, SM90A, "gemm_sm90a", Target::SM_90A);
    assert_eq!((resources.spill_stores, resources.spill_loads), (0, 0));
    // What 384 threads may have of 65536.
    assert_eq!(resources.registers, 168);
    assert_eq!((code.count("HGMMA"), code.count("UTMALDG"), code.count("USETMAXREG")), (4, 2, 2));
    assert_eq!((code.count("HMMA"), code.count("LDGSTS"), code.count("LDSM")), (0, 0, 0));
    let main = code.main_loop.as_ref().unwrap();
    // A step of 64 in depth is four instructions of 16. Copies are in the loop of the other warp.
    assert_eq!((main.count("HGMMA"), main.tensor_core, main.count("UTMALDG")), (4, 4, 0), "{main:?}");
    // The wait twice, since what is tried first stands in line and what is tried again does not; and one arrival.
    assert_eq!(main.count("SYNCS"), 3, "{main:?}");
    assert!(main.instructions < code.instructions / 2, "{main:?}");
    assert!(main.tensor_core_share() > 0.05, "{} in {main:?}", main.tensor_core_share());
}

#[test]
fn a_kernel_without_tensor_cores_has_no_main_loop() {
    let Some(nvrtc) = nvrtc_and_nvdisasm() else { return };
    let compiled = cubin(&nvrtc, include_str!("kernels/crowded.cu"), Target::SM_80);
    let code = disassemble(&compiled.cubin).unwrap();
    assert_eq!(code.len(), 4);
    for kernel in &code {
        assert_eq!((&kernel.main_loop, kernel.count("FFMA")), (&None, 96));
        // Spills are stores to local memory.
        let spills = compiled.kernel(&kernel.name).unwrap().spill_stores > 0;
        assert_eq!(kernel.count("STL") > 0, spills, "{kernel:?}");
    }
}

#[test]
fn what_is_no_cubin_is_refused() {
    if nvrtc_and_nvdisasm().is_none() {
        return;
    }
    for bytes in [b"".as_slice(), b"not an ELF file", b"\x7fELF"] {
        let error = disassemble(bytes).unwrap_err();
        assert!(matches!(error, NvrtcError::Disassembler { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&format!("failed on a CUBIN of {} bytes", bytes.len())), "{message}");
    }
}
