//! What no other `libcuda` has: the choice of the device, checks, diagnostics and counters. Names start with
//! `diptych_virtual_gpu_`; a program that finds them runs on the virtual GPU.

use crate::{CudaResult, Status, complain, with};
use diptych_virtual_gpu::{Counters, LaunchReport};
use std::ffi::{CStr, c_char, c_int};

/// Counters of all launches of a kernel.
pub(crate) struct KernelLaunches {
    kernel: String,
    launches: u64,
    total: Counters,
    main_loop: Counters,
}

impl KernelLaunches {
    pub(crate) fn record(all: &mut Vec<KernelLaunches>, kernel: &str, report: &LaunchReport) {
        let at = all.iter().position(|known| known.kernel == kernel).unwrap_or_else(|| {
            let (total, main_loop) = Default::default();
            all.push(KernelLaunches { kernel: kernel.to_string(), launches: 0, total, main_loop });
            all.len() - 1
        });
        all[at].launches += 1;
        all[at].total.add(&report.total);
        all[at].main_loop.add(&report.main_loop());
    }
}

/// Chooses the device: `target` is `sm_80`, `sm_90a` or `sm_100a`; `memory_bytes` may be 0 for 16 GiB. Before `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diptych_virtual_gpu_configure(
    target: *const c_char,
    memory_bytes: usize,
) -> CudaResult {
    with(|driver| {
        if driver.initialised {
            return Err(complain(Status::IllegalState, "the device was chosen when cuInit was called"));
        }
        if target.is_null() {
            return Err(Status::InvalidValue);
        }
        // SAFETY: the caller promises a string.
        let target = unsafe { CStr::from_ptr(target) }.to_string_lossy();
        driver.target = target.parse().map_err(|problem| complain(Status::InvalidValue, problem))?;
        if memory_bytes > 0 {
            driver.memory_bytes = memory_bytes;
        }
        Ok(())
    })
}

/// Which checks run in launches from here on, and the seed of their schedules. All are on at first, the seed is 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diptych_virtual_gpu_checks(
    initialised: c_int,
    races: c_int,
    counters: c_int,
    seed: u64,
) -> CudaResult {
    with(|driver| {
        driver.configuration.initialised = initialised != 0;
        driver.configuration.races = races != 0;
        driver.configuration.counters = counters != 0;
        driver.configuration.seed = seed;
        Ok(())
    })
}

/// Copies text to a buffer, with a zero at its end, as far as it fits; gives its length without the zero.
unsafe fn copy_text(text: &str, buffer: *mut c_char, length: usize) -> usize {
    if !buffer.is_null() && length > 0 {
        let count = text.len().min(length - 1);
        // SAFETY: the caller promises `length` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, count);
            buffer.add(count).write(0);
        }
    }
    text.len()
}

/// The text of the check that failed, 0 bytes if none did. The error that stays is taken away once a buffer of
/// sufficient length has been given: launches are possible again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diptych_virtual_gpu_take_diagnostic(buffer: *mut c_char, length: usize) -> usize {
    let mut needed = 0;
    with(|driver| {
        if let Some((_, text)) = &driver.failed {
            needed = unsafe { copy_text(text, buffer, length) };
            if needed < length && !buffer.is_null() {
                driver.failed = None;
            }
        }
        Ok(())
    });
    needed
}

/// Counters since the process started, a line for each kernel in the order of first launches, after a line of titles;
/// fields are separated by tabs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diptych_virtual_gpu_counters(buffer: *mut c_char, length: usize) -> usize {
    let mut needed = 0;
    with(|driver| {
        let mut text = String::from(
            "kernel\tlaunches\twarp_instructions\tlane_instructions\ttensor_core_instructions\tbank_conflict_ratio\t\
             load_sector_ratio\tstore_sector_ratio\tmain_loop_instructions\tmain_loop_tensor_core_instructions\t\
             main_loop_bank_conflict_ratio\n",
        );
        for KernelLaunches { kernel, launches, total, main_loop } in &driver.launches {
            text.push_str(&format!(
                "{kernel}\t{launches}\t{}\t{}\t{}\t{:.4}\t{:.4}\t{:.4}\t{}\t{}\t{:.4}\n",
                total.warp_instructions,
                total.lane_instructions,
                total.tensor_core_instructions,
                total.bank_conflict_ratio(),
                total.load_sector_ratio(),
                total.store_sector_ratio(),
                main_loop.warp_instructions,
                main_loop.tensor_core_instructions,
                main_loop.bank_conflict_ratio(),
            ));
        }
        needed = unsafe { copy_text(&text, buffer, length) };
        Ok(())
    });
    needed
}

/// Makes bytes of the device undefined again: a part of an arena that gets a new use. Reads of what its former owner
/// left there are found then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diptych_virtual_gpu_forget(address: u64, bytes: usize) -> CudaResult {
    with(|driver| {
        driver.device().forget(address, bytes).map_err(|problem| complain(Status::InvalidValue, problem))
    })
}

/// Whether there is from here on no memory for what graphs become: a test of what a program does without.
#[unsafe(no_mangle)]
pub extern "C" fn diptych_virtual_gpu_refuse_graphs(refuse: c_int) -> CudaResult {
    with(|driver| {
        driver.refuses_graphs = refuse != 0;
        Ok(())
    })
}
