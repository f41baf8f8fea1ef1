//! Which cores this process may use, in the order in which threads should take them, and pinning to one.
//! Must not know of pools. Only Linux can pin; elsewhere threads float.

/// The cores that the affinity mask of the calling thread allows, best first: one hardware thread
/// of every physical core before the second of any. Empty where the system does not tell (not Linux).
pub fn allowed_cores() -> Vec<usize> {
    let allowed = system::mask();
    let mut ranked: Vec<(usize, usize)> = allowed
        .iter()
        .map(|&core| {
            let earlier_siblings =
                system::siblings(core).iter().filter(|s| **s < core && allowed.contains(s)).count();
            (earlier_siblings, core)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, core)| core).collect()
}

/// How many threads compute-bound work should use: one for each physical core that the affinity mask
/// allows, and no more than a container's CPU quota. At least 1.
pub fn default_threads() -> usize {
    let quota = std::thread::available_parallelism().map_or(1, |n| n.get());
    let allowed = system::mask();
    let physical = allowed
        .iter()
        .filter(|&&core| !system::siblings(core).iter().any(|s| *s < core && allowed.contains(s)))
        .count();
    if physical == 0 { quota } else { physical.min(quota) }.max(1)
}

pub(crate) use system::{bring_here, pin};

/// Parses the kernel's list form, such as `0-3,8,10-11`.
#[cfg(any(target_os = "linux", test))]
fn parse_list(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>())
            && last < 1 << 16
        {
            cores.extend(first..=last);
        }
    }
    cores
}

#[cfg(target_os = "linux")]
mod system {
    use std::mem::size_of;

    /// A CPU set of 8192 cores: `libc::cpu_set_t` stops at 1024, and the kernel refuses a set smaller than its own.
    type CpuSet = [u64; 128];

    fn current() -> Option<CpuSet> {
        let mut set: CpuSet = [0; 128];
        // SAFETY: the kernel writes at most the size given into the array.
        let wrote = unsafe { libc::sched_getaffinity(0, size_of::<CpuSet>(), set.as_mut_ptr().cast()) };
        (wrote >= 0).then_some(set)
    }

    fn apply(set: &CpuSet) -> bool {
        // SAFETY: the kernel only reads the array.
        unsafe { libc::sched_setaffinity(0, size_of::<CpuSet>(), set.as_ptr().cast()) == 0 }
    }

    fn only(core: usize) -> CpuSet {
        let mut set: CpuSet = [0; 128];
        if let Some(word) = set.get_mut(core / 64) {
            *word = 1 << (core % 64);
        }
        set
    }

    pub fn mask() -> Vec<usize> {
        let set = current().unwrap_or([0; 128]);
        (0..set.len() * 64).filter(|core| set[core / 64] >> (core % 64) & 1 == 1).collect()
    }

    pub fn siblings(core: usize) -> Vec<usize> {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        std::fs::read_to_string(path).map_or_else(|_| Vec::new(), |text| super::parse_list(&text))
    }

    /// Pins the calling thread to `core` for good. A refusal leaves the thread floating, which is slower and not wrong.
    pub fn pin(core: usize) {
        apply(&only(core));
    }

    /// Moves the calling thread to `core` if it runs elsewhere, and gives it back its own mask:
    /// the scheduler has no reason to move it again while the other cores are busy.
    pub fn bring_here(core: usize) {
        // SAFETY: takes nothing, returns a number or -1.
        let here = unsafe { libc::sched_getcpu() };
        if here != core as i32
            && let Some(own) = current()
            && own.get(core / 64).is_some_and(|word| word >> (core % 64) & 1 == 1)
            && apply(&only(core))
        {
            apply(&own);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub fn mask() -> Vec<usize> {
        Vec::new()
    }
    pub fn siblings(_core: usize) -> Vec<usize> {
        Vec::new()
    }
    pub fn pin(_core: usize) {}
    pub fn bring_here(_core: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("5"), [5]);
        assert_eq!(parse_list(""), [] as [usize; 0]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_mask_is_respected() {
        std::thread::spawn(|| {
            let all = allowed_cores();
            assert!(!all.is_empty());
            let last = *all.last().unwrap();
            pin(last);
            assert_eq!(allowed_cores(), [last]);
            assert_eq!(default_threads(), 1);
        })
        .join()
        .unwrap();
    }
}
