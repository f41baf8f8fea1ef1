//! Regions, barriers, claims and sampling allocate nothing: counted by an allocator of this test's own.

#[path = "support/counting.rs"]
mod counting;

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use counting::allocations;
use diptych_runtime::cpu::pool::{Pool, claim};
use diptych_runtime::sampling::{Sampler, SamplingOptions};

/// One test, since the count is the whole process's.
#[test]
fn the_hot_paths_allocate_nothing() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 10]))) > 0, "the counter must count");

    for threads in [1, 2, 4] {
        let pool = Pool::new(threads).unwrap();
        let next = AtomicUsize::new(0);
        let region = |_: usize, barrier: &diptych_runtime::cpu::pool::Barrier| {
            barrier.wait();
            while claim(&next, 100, 3).is_some() {}
            barrier.wait();
        };
        // The first region may find threads still starting.
        pool.run(&region);
        let count = allocations(|| {
            for round in 0..300 {
                next.store(0, Ordering::Relaxed);
                pool.run(&region);
                if round % 100 == 0 {
                    // Long enough for the workers to go to sleep, so that waking is counted, too.
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        });
        assert_eq!(count, 0, "{threads} threads");
    }

    let logits: Vec<f32> = (0..5000).map(|token| ((token * 7919) % 5003) as f32 / 500.0).collect();
    for (temperature, top_k, top_p) in
        [(0.0, None, 1.0), (1.0, None, 1.0), (1.0, Some(50), 0.9), (1.0, None, 0.9)]
    {
        let sampler = Sampler::new(SamplingOptions { temperature, top_k, top_p }, logits.len()).unwrap();
        let sampler = RefCell::new(sampler);
        let count = allocations(|| {
            for position in 0..20 {
                sampler.borrow_mut().choose(&logits, 1, position).unwrap();
            }
        });
        assert_eq!(count, 0, "temperature {temperature}, top-k {top_k:?}, top-p {top_p}");
    }
}
