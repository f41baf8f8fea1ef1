//! What a whole model takes, trained and served, on machines that need not be there: its program is compiled to
//! tile programs and plans, which hold no tensor, and these are counted. There is no formula for an architecture.
//! It must not know families of models, nor how figures are shown.

use crate::entry::{LaunchPrediction, predict_entry};
use crate::launch::{RunSizes, whole_work};
use crate::machine::{Kind, Machine};
use crate::roofline::Bound;
use diptych_codegen::driver::{CompiledProgram, Rewriting, compile_rewritten, rewrite};
use diptych_codegen::entry::{
    ArgRef, Buffer, BufferId, CompileError, CompiledEntry, EntryOptions, Launch, Limits, PlanStep, Role,
};
use diptych_ir::{EntryKind, Op, ParamInfo, Program, RegionId, Symbol, TensorType};
use diptych_passes::AdamWOptions;
use diptych_passes::fuse::gathered;
use diptych_passes::layout::{Leading, parameter_names};
use diptych_passes::plan::place;
use std::collections::{BTreeMap, BTreeSet};

/// The blocks that tile programs are lowered with; what is counted for a GPU does not depend on them.
const OPTIONS: EntryOptions = EntryOptions::new(32, 144, 2);

/// What is done with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Forward, backward and the share of an update that falls on the tokens.
    Train,
    /// A prompt with an empty cache.
    Prefill,
    /// One token more for each sequence.
    Decode,
}

impl JobKind {
    /// All of them.
    pub const ALL: [JobKind; 3] = [JobKind::Train, JobKind::Prefill, JobKind::Decode];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Train => "train",
            JobKind::Prefill => "prefill",
            JobKind::Decode => "decode",
        }
    }
}

/// What a job takes on one device that holds all of it.
#[derive(Clone, Debug)]
pub struct JobCost {
    /// Seconds.
    pub seconds: f64,
    /// Tokens that are done in this time.
    pub tokens: f64,
    /// Seconds of kernels bound by computing, by moving bytes, and by launching.
    pub bound_seconds: [f64; 3],
    /// What most of the time is bound by: `compute`, `memory` or `launch`.
    pub bound: &'static str,
    /// Bytes that the device must hold.
    pub memory_bytes: f64,
    /// The kernels of forward and backward, or of serving, each over all layers.
    pub launches: Vec<LaunchPrediction>,
}

/// Names of the bounds of [`JobCost::bound_seconds`].
pub const BOUNDS: [&str; 3] = ["compute", "memory", "launch"];

/// What training keeps in memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingMemory {
    /// Parameters, as the optimizer updates them.
    pub parameter_bytes: f64,
    /// Their gradients.
    pub gradient_bytes: f64,
    /// Moments.
    pub optimizer_bytes: f64,
    /// What forward leaves for backward, and temporaries.
    pub activation_bytes: f64,
}

impl TrainingMemory {
    /// All of it.
    pub fn total_bytes(&self) -> f64 {
        self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes
    }
}

/// A model, compiled to be counted.
#[derive(Debug)]
pub struct ModelCost {
    compiled: CompiledProgram,
    /// Decoding, not divided for threads: for machines that cut kernels their own way.
    undivided_decode: CompiledEntry,
}

impl ModelCost {
    /// Compiles a program in the form that is chosen for it. Takes memory for the program's text, not for its tensors.
    ///
    /// # Errors
    /// When a pass refuses the program: which op, and why.
    pub fn compile(
        program: &Program,
        optimizer: &AdamWOptions,
        rewriting: &Rewriting,
    ) -> Result<ModelCost, CompileError> {
        let kinds = [
            EntryKind::Train,
            EntryKind::Accumulate,
            EntryKind::Update,
            EntryKind::Score,
            EntryKind::Prefill,
            EntryKind::Decode,
        ];
        let rewritten = rewrite(program, rewriting, OPTIONS)?;
        let compiled = compile_rewritten(&rewritten, &kinds, optimizer, OPTIONS)?;
        let undivided = EntryOptions { threads: 1, ..OPTIONS };
        let mut decode = compile_rewritten(&rewritten, &[EntryKind::Decode], optimizer, undivided)?;
        let undivided_decode = decode
            .entries
            .remove(&EntryKind::Decode)
            .ok_or_else(|| CompileError::Unfit("the program has no entry `decode`".to_owned()))?;
        Ok(ModelCost { compiled, undivided_decode })
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> f64 {
        self.compiled.program.params.values().map(|info| elements(&info.ty)).sum()
    }

    /// Numbers that take part in computing one token: all but those of experts that it was not sent to.
    pub fn active_parameters(&self) -> f64 {
        let shares = chosen_shares(&self.compiled.program);
        let active = |(name, info): (&Symbol, &ParamInfo)| {
            elements(&info.ty) * shares.get(name).copied().unwrap_or(1.0)
        };
        self.compiled.program.params.iter().map(active).sum()
    }

    /// Bytes that each position adds to the caches of all layers, windows not taken into account.
    pub fn cache_bytes_per_token(&self) -> f64 {
        let decode = &self.compiled.entries[&EntryKind::Decode];
        let grows = |buffer: &&Buffer| {
            matches!(buffer.role, Role::Cache { .. }) && buffer.layout.leading() == Leading::Past
        };
        decode.buffers.iter().filter(grows).map(row_bytes).sum()
    }

    /// Bytes that a sequence takes whatever its length: what recurrences carry, in all layers.
    pub fn state_bytes_per_sequence(&self) -> f64 {
        let decode = &self.compiled.entries[&EntryKind::Decode];
        decode.buffers.iter().filter(|buffer| matches!(buffer.role, Role::State { .. })).map(row_bytes).sum()
    }

    /// Bytes that a device holds to serve: what prefill and decode read of parameters, in the precision in
    /// which they read it. Masters that are only needed to derive others are not among them.
    pub fn weight_bytes(&self) -> f64 {
        let of = |kind: EntryKind| {
            let entry = &self.compiled.entries[&kind];
            let mut used = BTreeSet::new();
            used_buffers(&entry.steps, &mut used);
            let weights = used.into_iter().map(|id| &entry.buffers[id]).filter(|buffer| {
                matches!(buffer.role, Role::Stored(_) | Role::Derived)
                    && buffer.layout.leading() == Leading::None
            });
            weights.map(row_bytes).sum::<f64>()
        };
        of(EntryKind::Prefill).max(of(EntryKind::Decode))
    }

    /// What training keeps, with micro-batches of so many sequences of so many tokens.
    pub fn training_memory(&self, batch: usize, tokens: usize) -> TrainingMemory {
        let states = |gradient: bool| {
            let of = self.compiled.program.states.iter();
            let chosen = of.filter(|(name, _)| name.as_str().starts_with("gradient") == gradient);
            chosen.map(|(_, ty)| bytes(ty)).sum::<f64>()
        };
        let train = &self.compiled.entries[&EntryKind::Train];
        TrainingMemory {
            parameter_bytes: self.compiled.program.params.values().map(|info| bytes(&info.ty)).sum(),
            gradient_bytes: states(true),
            optimizer_bytes: states(false),
            activation_bytes: arena_bytes(train, &RunSizes::equal(batch, 0, tokens)),
        }
    }

    /// Floating-point operations of contractions for one token, forward, averaged over a sequence of `context`
    /// tokens from its start; masks leave out what they leave out, by chunks of 64.
    pub fn forward_flops_per_token(&self, context: usize) -> f64 {
        let entry = &self.compiled.entries[&EntryKind::Score];
        contraction_flops(entry, &entry.steps, &RunSizes::equal(1, 0, context)) / context as f64
    }

    /// The same for a training token as the model asks for it: three times forward.
    pub fn train_flops_per_token(&self, context: usize) -> f64 {
        3.0 * self.forward_flops_per_token(context)
    }

    /// The same as the compiled backward pass does it, with what it computes again.
    pub fn executed_train_flops_per_token(&self, context: usize) -> f64 {
        let entry = &self.compiled.entries[&EntryKind::Train];
        contraction_flops(entry, &entry.steps, &RunSizes::equal(1, 0, context)) / context as f64
    }

    /// Floating-point operations of contractions for one token that sees `context` positions, its own included.
    pub fn decode_flops(&self, context: usize) -> f64 {
        let entry = &self.compiled.entries[&EntryKind::Decode];
        contraction_flops(entry, &entry.steps, &decoding(1, context))
    }

    /// What a job takes, `batch` sequences at once: training on `context` tokens of each, a prompt of `context`
    /// tokens, or a token that sees `context` positions. A training step has `step_tokens` tokens, in as many
    /// micro-batches as that takes.
    pub fn job(
        &self,
        kind: JobKind,
        machine: &Machine,
        threads: usize,
        (batch, context): (usize, usize),
        step_tokens: usize,
    ) -> JobCost {
        let run = match kind {
            JobKind::Train | JobKind::Prefill => RunSizes::equal(batch, 0, context),
            JobKind::Decode => decoding(batch, context),
        };
        let predicted = |entry: EntryKind, run: &RunSizes| {
            let compiled = match (entry, machine.kind) {
                (EntryKind::Decode, Kind::Gpu) => &self.undivided_decode,
                _ => &self.compiled.entries[&entry],
            };
            predict_entry(compiled, machine, threads, run)
        };
        let parts = match kind {
            JobKind::Train => {
                let micro_batches = (step_tokens as f64 / run.rows() as f64).max(1.0);
                vec![
                    (predicted(EntryKind::Train, &run), 1.0 / micro_batches),
                    (predicted(EntryKind::Accumulate, &run), 1.0 - 1.0 / micro_batches),
                    (predicted(EntryKind::Update, &RunSizes::equal(1, 0, 1)), 1.0 / micro_batches),
                ]
            }
            JobKind::Prefill => vec![(predicted(EntryKind::Prefill, &run), 1.0)],
            JobKind::Decode => vec![(predicted(EntryKind::Decode, &run), 1.0)],
        };
        let mut bound_seconds = [0.0; 3];
        let mut seconds = 0.0;
        for (entry, share) in &parts {
            seconds += share * entry.seconds();
            // Copies only move bytes.
            bound_seconds[1] += share * entry.copy_seconds;
            for launch in &entry.launches {
                bound_seconds[bound_position(&launch.bound)] += share * launch.seconds;
            }
        }
        let most = (0..3).max_by(|&a, &b| bound_seconds[a].total_cmp(&bound_seconds[b])).unwrap_or(0);
        JobCost {
            seconds,
            tokens: run.rows() as f64,
            bound_seconds,
            bound: BOUNDS[most],
            memory_bytes: self.job_memory(kind, batch, context),
            launches: parts.into_iter().next().map(|part| part.0.launches).unwrap_or_default(),
        }
    }

    fn job_memory(&self, kind: JobKind, batch: usize, context: usize) -> f64 {
        let serving = |entry: EntryKind, run: RunSizes| {
            let entry = &self.compiled.entries[&entry];
            let caches = entry
                .buffers
                .iter()
                .filter(|buffer| matches!(buffer.role, Role::Cache { .. } | Role::State { .. }));
            let cache: f64 = caches
                .map(|buffer| match buffer.layout.leading() {
                    Leading::Past => row_bytes(buffer) * (batch * context) as f64,
                    Leading::Batch => row_bytes(buffer) * batch as f64,
                    _ => row_bytes(buffer),
                })
                .sum();
            self.weight_bytes() + cache + arena_bytes(entry, &run)
        };
        match kind {
            JobKind::Train => self.training_memory(batch, context).total_bytes(),
            JobKind::Prefill => serving(EntryKind::Prefill, RunSizes::equal(batch, 0, context)),
            JobKind::Decode => serving(EntryKind::Decode, decoding(batch, context)),
        }
    }
}

/// The name of a bound, one of [`BOUNDS`].
pub fn bound_name(bound: &Bound) -> &'static str {
    BOUNDS[bound_position(bound)]
}

fn bound_position(bound: &Bound) -> usize {
    match bound {
        Bound::Compute | Bound::Transcendental => 0,
        Bound::Memory(_) => 1,
        Bound::Launch => 2,
    }
}

fn elements(ty: &TensorType) -> f64 {
    ty.axes.iter().map(|axis| axis.fixed_size().unwrap_or(1) as f64).product()
}

fn bytes(ty: &TensorType) -> f64 {
    elements(ty) * ty.dtype.bytes() as f64
}

/// Bytes of all slots of a buffer for each run-time row (of all of it if it has none), without what fills up panels.
fn row_bytes(buffer: &Buffer) -> f64 {
    (buffer.slots * buffer.layout.row_elements(1) * buffer.dtype.bytes()) as f64
}

/// Bytes of what is alive within a run only.
fn arena_bytes(entry: &CompiledEntry, run: &RunSizes) -> f64 {
    let limits = Limits { rows: run.rows(), batch: run.batch() };
    place(&entry.lifetimes(limits, run.cached())).bytes as f64
}

/// A token more for each of so many sequences, that sees `context` positions, its own included.
fn decoding(batch: usize, context: usize) -> RunSizes {
    RunSizes::equal(batch, context.saturating_sub(1), 1)
}

fn each_launch<'a>(steps: &'a [PlanStep], times: f64, visit: &mut impl FnMut(&'a Launch, f64)) {
    for step in steps {
        match step {
            PlanStep::Launch(launch) => visit(launch, times),
            PlanStep::Together(together) => together.iter().for_each(|launch| visit(launch, times)),
            PlanStep::Repeat { layers, body, .. } => each_launch(body, times * *layers as f64, visit),
            PlanStep::Turns { body, .. } => each_launch(body, times, visit),
            PlanStep::Copy { .. } => {}
        }
    }
}

fn used_buffers(steps: &[PlanStep], used: &mut BTreeSet<BufferId>) {
    each_launch(steps, 1.0, &mut |launch, _| used.extend(launch.args.iter().map(|arg: &ArgRef| arg.buffer)));
}

fn contraction_flops(entry: &CompiledEntry, steps: &[PlanStep], run: &RunSizes) -> f64 {
    let mut flops = 0.0;
    each_launch(steps, 1.0, &mut |launch, times| {
        let whole = whole_work(&entry.programs[launch.kernel], launch, run);
        flops += times * whole.contractions.iter().map(|each| each.flops).sum::<f64>();
    });
    flops
}

/// Of each parameter that rows choose matrices of, the part that a row chooses.
fn chosen_shares(program: &Program) -> BTreeMap<Symbol, f64> {
    let names = parameter_names(program);
    let mut shares = BTreeMap::new();
    for (index, region) in program.regions.iter().enumerate() {
        let graph = &region.graph;
        for found in graph.ids().into_iter().filter_map(|id| gathered(graph, id)) {
            let mut table = found.table;
            while let Op::Cast(_) = graph.op(table) {
                table = graph.operands(table)[0];
            }
            let (chosen, all) = (found.grouping.ids_of_row(), found.grouping.axis.fixed_size());
            if let (Some(&name), Some(all)) = (names.get(&(RegionId(index as u32), table)), all) {
                shares.insert(name, (chosen as f64 / all as f64).min(1.0));
            }
        }
    }
    shares
}
