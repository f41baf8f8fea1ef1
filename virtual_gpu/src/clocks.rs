//! Vector clocks of a block: what each warp knows of the others' doings.
//!
//! Agents are the warps; the mbarriers, for the asynchronous copies that they count; and threads that issue tcgen05.mma,
//! for their products. An agent's clock moves on at each release (a barrier, an arrival, a fence). An access of agent `a` at clock `c` comes before what
//! warp `w` does now if `w` has seen `a` at `c` or later. All clocks come from one counter, which goes on from block to
//! block: what an earlier block left in shared memory is older than anything of this block.

pub(crate) const WARPS: usize = 32;
pub(crate) const FIRST_BARRIER_AGENT: usize = WARPS;
/// Warps, mbarriers and threads that issue products together.
pub(crate) const AGENTS: usize = 128;

/// What a warp, or a barrier on behalf of those that arrived, has seen of every agent.
#[derive(Clone, Debug)]
pub(crate) struct Knowledge {
    pub seen: [u32; AGENTS],
    /// Up to where ordinary writes were made visible to the asynchronous proxy by fence.proxy.async.
    pub proxied: [u32; AGENTS],
    /// Up to where accesses to tensor memory were given free by tcgen05.fence::before_thread_sync.
    pub fenced: [u32; WARPS],
}

impl Knowledge {
    pub fn nothing(start: u32) -> Self {
        Knowledge { seen: [start; AGENTS], proxied: [start; AGENTS], fenced: [start; WARPS] }
    }

    pub fn join(&mut self, other: &Knowledge) {
        for (mine, other) in self.seen.iter_mut().zip(&other.seen) {
            *mine = (*mine).max(*other);
        }
        for (mine, other) in self.proxied.iter_mut().zip(&other.proxied) {
            *mine = (*mine).max(*other);
        }
        for (mine, other) in self.fenced.iter_mut().zip(&other.fenced) {
            *mine = (*mine).max(*other);
        }
    }
}

pub(crate) struct Clocks {
    warps: Vec<Knowledge>,
    /// What each warp's accesses to tensor memory come after: what it had seen fenced at its last
    /// tcgen05.fence::after_thread_sync.
    tensor: Vec<[u32; AGENTS]>,
    now: u32,
    start: u32,
}

impl Clocks {
    /// Clocks of a block that starts when the counter is at `now`.
    pub fn new(warps: usize, now: u32) -> Self {
        let mut clocks = Clocks {
            warps: vec![Knowledge::nothing(now); warps],
            tensor: vec![[now; AGENTS]; warps],
            now,
            start: now,
        };
        (0..warps).for_each(|warp| clocks.advance(warp));
        clocks
    }

    pub fn now(&self) -> u32 {
        self.now
    }

    /// Clocks up to this one belong to earlier blocks.
    pub fn start(&self) -> u32 {
        self.start
    }

    pub fn seen(&self, warp: usize) -> &[u32; AGENTS] {
        &self.warps[warp].seen
    }

    pub fn proxied(&self, warp: usize) -> &[u32; AGENTS] {
        &self.warps[warp].proxied
    }

    /// Up to where accesses of others to tensor memory come before those of this warp.
    pub fn tensor_seen(&self, warp: usize) -> &[u32; AGENTS] {
        &self.tensor[warp]
    }

    pub fn knowledge(&self, warp: usize) -> &Knowledge {
        &self.warps[warp]
    }

    /// A new moment, for an agent that is no warp.
    pub fn tick(&mut self) -> u32 {
        self.now += 1;
        self.now
    }

    /// What the warp does from here on is not covered by what it has released so far.
    pub fn advance(&mut self, warp: usize) {
        self.warps[warp].seen[warp] = self.tick();
    }

    /// The warp learns what a barrier knows.
    pub fn acquire(&mut self, warp: usize, knowledge: &Knowledge) {
        let own = self.warps[warp].seen[warp];
        self.warps[warp].join(knowledge);
        self.warps[warp].seen[warp] = own;
    }

    /// fence.proxy.async: all that the warp has seen written is visible to the asynchronous proxy.
    pub fn fence_proxy(&mut self, warp: usize) {
        let Knowledge { seen, proxied, .. } = &mut self.warps[warp];
        for (proxied, seen) in proxied.iter_mut().zip(&*seen) {
            *proxied = (*proxied).max(*seen);
        }
        self.advance(warp);
    }

    /// tcgen05.fence::before_thread_sync: what comes behind the warp's next release is ordered behind its accesses to
    /// tensor memory so far.
    pub fn fence_before_thread_sync(&mut self, warp: usize) {
        let knowledge = &mut self.warps[warp];
        knowledge.fenced[warp] = knowledge.seen[warp];
        self.advance(warp);
    }

    /// tcgen05.fence::after_thread_sync: from here on the warp's accesses to tensor memory come behind what others
    /// fenced before they released what the warp has acquired.
    pub fn fence_after_thread_sync(&mut self, warp: usize) {
        let Knowledge { seen, fenced, .. } = &self.warps[warp];
        for (agent, known) in self.tensor[warp].iter_mut().enumerate() {
            let seen = if agent < WARPS { fenced[agent] } else { seen[agent] };
            *known = (*known).max(seen);
        }
    }
}
