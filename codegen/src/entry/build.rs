//! Builds a compiled entry: fuses, lowers each group, and gives every value a
//! buffer. A value that a region yields is written straight to where it goes.

use super::error::CompileError;
use super::layouts::ValueLayouts;
use super::options::{EntryOptions, Language};
use super::overwriting::is_overwritten_too_soon;
use super::together::join;
use super::{ArgRef, Buffer, BufferId, CompiledEntry, GridCount, Launch, PlanStep, Role, Slot};
use crate::c;
use crate::cuda;
use crate::identity::{Identities, identities};
use crate::lower::{Context, Lowered, Source, added_rows, lower, lower_grouping};
use crate::tile::{Dim, Extent, TileProgram};
use diptych_ir::{DType, Entry, EntryKind, NodeId, Op, Program, ReduceKind, RegionId, ScalarFn};
use diptych_passes::fuse::{
    FuseOptions, Group, GroupKind, RegionSteps, Rows, Step, StreamedAxes, fuse_entry,
};
use diptych_passes::layout::{Layout, Layouts, Leading, product};
use diptych_passes::micro_batches::continued_sums;
use diptych_passes::normalize::{normalize, sum_heads_apart};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// Compiles one entry of a program. Parameters are laid out as `layouts` says and long axes are
/// those of `streamed`, the same for all entries of a program.
///
/// # Errors
/// When the program has no such entry, or has something that no kernel does.
pub fn compile_entry(
    program: &Program,
    kind: EntryKind,
    layouts: &Layouts,
    streamed: &StreamedAxes,
    options: EntryOptions,
) -> Result<CompiledEntry, CompileError> {
    compile_entry_timed(program, kind, layouts, streamed, options).map(|(entry, _)| entry)
}

/// Seconds that the stages of an entry took. What they leave of the whole is the program's normal form.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct EntrySeconds {
    /// The choice of kernels.
    fuse: f64,
    /// From fused groups to tile programs, launches and buffers.
    lower: f64,
    /// Tile programs as text.
    text: f64,
    /// What that stage is called: after the language.
    text_name: &'static str,
}

impl EntrySeconds {
    /// Each stage by name, in order.
    pub(crate) fn parts(&self) -> [(&'static str, f64); 3] {
        [("fuse", self.fuse), ("lower", self.lower), (self.text_name, self.text)]
    }
}

/// As [`compile_entry`], with what its stages took.
pub(crate) fn compile_entry_timed(
    program: &Program,
    kind: EntryKind,
    layouts: &Layouts,
    streamed: &StreamedAxes,
    options: EntryOptions,
) -> Result<(CompiledEntry, EntrySeconds), CompileError> {
    let plan_error =
        |problem: &str| CompileError::Plan { entry: kind.name().to_owned(), problem: problem.to_owned() };
    let mut program = program.clone();
    program.entries.retain(|entry| entry.kind == kind);
    if program.entries.is_empty() {
        return Err(plan_error("the program has no such entry"));
    }
    let program = normalize(&program, kind.cached())?;
    let program = if options.blocks.divides_groups { sum_heads_apart(&program)? } else { program };
    diptych_ir::verify(&program)?;
    let mut entry = program.entry(kind).cloned().ok_or_else(|| plan_error("the entry got lost"))?;
    let continued = continued_sums(&program, &entry);
    entry.updates.clone_from(&continued.updates);
    let training = kind.trains();
    let rows = match kind {
        EntryKind::Decode => Rows::Few,
        _ if training && options.blocks.whole_rows => Rows::Many,
        _ => Rows::Any,
    };
    let fuse_options = FuseOptions {
        rows,
        history_is_rename: !kind.cached(),
        operand_elements: options.blocks.operand_elements(rows == Rows::Few),
        fine_columns: options.blocks.divides_finely(),
    };
    let start = Instant::now();
    let fused = fuse_entry(&program, &entry, streamed, fuse_options)?;
    let fuse_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let results: Vec<NodeId> = entry.roots.iter().chain(&entry.updates).map(|result| result.1).collect();
    let identities = identities(&program, &results);
    let values = ValueLayouts::of(&program, layouts, &entry.updates);
    let mut builder = Builder {
        program: &program,
        entry: &entry,
        layouts,
        values: &values,
        fused: &fused,
        options,
        training,
        identities: &identities,
        continued: &continued.sums,
        buffers: Vec::new(),
        kernels: Vec::new(),
        texts: Vec::new(),
        device_kernels: Vec::new(),
        text_seconds: 0.0,
        time: 0,
        derived: HashSet::new(),
        derived_places: HashMap::new(),
    };
    let (steps, load_steps) = builder.main()?;
    let text = builder.text_seconds;
    let lower = start.elapsed().as_secs_f64() - text;
    let text_name = match options.language {
        Language::C => "C text",
        Language::Cuda(_) => "CUDA text",
    };
    let seconds = EntrySeconds { fuse: fuse_seconds, lower, text, text_name };
    let entry = CompiledEntry {
        kind,
        kernels: builder.texts,
        device_kernels: builder.device_kernels,
        programs: builder.kernels,
        buffers: builder.buffers,
        load_steps,
        steps,
        panel: options.panel,
        added: continued.added,
    };
    super::maps::check(&entry)?;
    Ok((entry, seconds))
}

pub(super) struct Builder<'a> {
    pub(super) program: &'a Program,
    entry: &'a Entry,
    layouts: &'a Layouts,
    values: &'a ValueLayouts<'a>,
    fused: &'a HashMap<RegionId, RegionSteps>,
    pub(super) options: EntryOptions,
    training: bool,
    identities: &'a Identities,
    /// Sums that go on from what is stored where they are written.
    continued: &'a HashSet<(RegionId, NodeId)>,
    pub(super) buffers: Vec<Buffer>,
    pub(super) kernels: Vec<TileProgram>,
    texts: Vec<c::KernelText>,
    device_kernels: Vec<cuda::KernelText>,
    text_seconds: f64,
    pub(super) time: usize,
    /// Values that depend on parameters alone.
    derived: HashSet<(RegionId, NodeId)>,
    derived_places: HashMap<(RegionId, NodeId), ArgRef>,
}

/// A region on its way: where its values are, and where its results go.
pub(super) struct Scope {
    pub(super) region: RegionId,
    pub(super) places: HashMap<NodeId, ArgRef>,
    pub(super) targets: HashMap<NodeId, ArgRef>,
    /// Layers, within a repeat.
    pub(super) layers: Option<usize>,
    /// What kernels of a group leave for one another, beside values of nodes.
    pub(super) between: HashMap<Source, ArgRef>,
}

impl Builder<'_> {
    pub(super) fn error(&self, problem: impl Into<String>) -> CompileError {
        CompileError::Plan { entry: self.entry.kind.name().to_owned(), problem: problem.into() }
    }

    pub(super) fn add_buffer(
        &mut self,
        role: Role,
        region: RegionId,
        node: NodeId,
        slots: usize,
    ) -> BufferId {
        let layout = self.values.get(region, node);
        let dtype = self.program.region(region).graph.ty(node).dtype;
        self.buffers.push(Buffer { role, dtype, layout, slots, turn: None, first: usize::MAX, last: 0 });
        self.buffers.len() - 1
    }

    /// The buffer of a role, made if it is new.
    fn role_buffer(&mut self, role: Role, region: RegionId, node: NodeId, slots: usize) -> BufferId {
        let known = self.buffers.iter().position(|buffer| buffer.role == role);
        known.unwrap_or_else(|| self.add_buffer(role, region, node, slots))
    }

    /// The buffer of the states of a value that a scan carries.
    fn state_buffer(
        &mut self,
        region: RegionId,
        node: NodeId,
        index: usize,
        slots: usize,
    ) -> Result<BufferId, CompileError> {
        let Op::Scan(scan) = self.program.region(region).graph.op(node) else {
            return Err(self.error("a state of what is no recurrence"));
        };
        let role = Role::State { room: scan.room, index };
        if let Some(known) = self.buffers.iter().position(|buffer| buffer.role == role) {
            return Ok(known);
        }
        let (dtype, layout) = (scan.results[index].dtype, self.layouts.dense(&scan.results[index]));
        self.buffers.push(Buffer { role, dtype, layout, slots, turn: None, first: usize::MAX, last: 0 });
        Ok(self.buffers.len() - 1)
    }

    /// How many values of the layout a node's value is: layers of a stack.
    fn slots(&self, region: RegionId, node: NodeId) -> usize {
        let fixed = |axes: &[diptych_ir::Axis]| product(axes).max(1);
        let stored = match self.values.get(region, node) {
            Layout::Dense { order, .. } => fixed(&order),
            Layout::Packed { k, n } | Layout::Blocks { k, n, .. } => fixed(&k) * fixed(&n),
            Layout::Rounded { order, .. } => fixed(&order),
        };
        fixed(self.program.region(region).graph.axes(node)) / stored
    }

    pub(super) fn touch(&mut self, place: ArgRef) {
        let time = self.time;
        let buffer = &mut self.buffers[place.buffer];
        buffer.first = buffer.first.min(time);
        buffer.last = buffer.last.max(time);
    }

    fn main(&mut self) -> Result<(Vec<PlanStep>, Vec<PlanStep>), CompileError> {
        let main = Program::MAIN;
        let mut scope = Scope {
            region: main,
            places: HashMap::new(),
            targets: HashMap::new(),
            layers: None,
            between: HashMap::new(),
        };
        let mut copies = Vec::new();
        for (name, node) in self.entry.roots.clone() {
            let graph = &self.program.main().graph;
            let stacked = match graph.op(node) {
                Op::Output(output) => match graph.op(graph.operands(node)[0]) {
                    Op::Repeat(repeat) => output.index >= repeat.carried,
                    _ => false,
                },
                _ => false,
            };
            if stacked {
                return Err(self.error(format!(
                    "root `{name}` is what each layer yields: ask for what is computed from it"
                )));
            }
            let buffer = self.role_buffer(Role::Root(name), main, node, 1);
            let place = ArgRef { buffer, slot: Slot::First };
            if let Some(&first) = scope.targets.get(&node) {
                copies.push(PlanStep::Copy { from: first, to: place });
            } else {
                scope.targets.insert(node, place);
            }
        }
        for (name, node) in self.entry.updates.clone() {
            let slots = self.slots(main, node);
            let stored =
                ArgRef { buffer: self.role_buffer(Role::Stored(name), main, node, slots), slot: Slot::First };
            if is_overwritten_too_soon(self.program, self.fused, name, node)
                || scope.targets.contains_key(&node)
            {
                let buffer = self.add_buffer(Role::Temporary, main, node, slots);
                let place = *scope.targets.entry(node).or_insert(ArgRef { buffer, slot: Slot::First });
                copies.push(PlanStep::Copy { from: place, to: stored });
            } else {
                scope.targets.insert(node, stored);
            }
        }
        let (mut steps, load_steps) = self.region(&mut scope)?;
        self.time += 1;
        for copy in &copies {
            if let PlanStep::Copy { from, to } = copy {
                self.touch(*from);
                self.touch(*to);
            }
        }
        steps.extend(copies);
        Ok((steps, load_steps))
    }

    /// The steps of a region: those of each run, and those done once at load.
    pub(super) fn region(
        &mut self,
        scope: &mut Scope,
    ) -> Result<(Vec<PlanStep>, Vec<PlanStep>), CompileError> {
        let (mut steps, mut load_steps) = (Vec::new(), Vec::new());
        let fused = self.fused;
        self.place_added_sums(scope);
        for step in &fused[&scope.region].steps {
            self.time += 1;
            match step {
                Step::Group(group) => {
                    let at_load = self.is_derived(scope, group);
                    let launches = self.group(scope, group, at_load, false)?;
                    let launches = launches.into_iter().map(PlanStep::Launch);
                    if at_load { load_steps.extend(launches) } else { steps.extend(launches) }
                }
                Step::Repeat(node) => self.repeat(scope, *node, &mut steps, &mut load_steps)?,
                Step::Turns(turns) => steps.push(self.turns(scope, turns)?),
            }
        }
        let steps = join(steps, &self.kernels, &mut self.buffers);
        let load_steps = join(load_steps, &self.kernels, &mut self.buffers);
        Ok((steps, load_steps))
    }

    /// The sum, the rows that are added to it where it lies, and both together.
    fn added(&self, region: RegionId, group: &Group) -> Option<[NodeId; 3]> {
        let graph = &self.program.region(region).graph;
        (group.kind == GroupKind::AddedRows).then(|| added_rows(graph, group)).flatten()
    }

    /// A sum to which rows are added goes where both together are to be.
    fn place_added_sums(&self, scope: &mut Scope) {
        for group in self.fused[&scope.region].steps.iter().flat_map(Step::groups) {
            if let Some([sum, _, both]) = self.added(scope.region, group)
                && let Some(&target) = scope.targets.get(&both)
            {
                scope.targets.insert(sum, target);
            }
        }
    }

    /// Whether a group depends on parameters alone, and is to be computed at load.
    fn is_derived(&mut self, scope: &Scope, group: &Group) -> bool {
        if self.training || group.kind == GroupKind::Scan {
            return false;
        }
        let graph = &self.program.region(scope.region).graph;
        let mut known: HashSet<NodeId> = HashSet::new();
        for &id in &group.nodes {
            let mut stack = graph.operands(id);
            while let Some(operand) = stack.pop() {
                let stored = scope.places.get(&operand).is_some_and(|place| {
                    matches!(self.buffers[place.buffer].role, Role::Stored(_) | Role::Derived)
                });
                let derived =
                    known.contains(&operand) || self.derived.contains(&(scope.region, operand)) || stored;
                match graph.op(operand) {
                    _ if derived => {}
                    Op::Param(_) | Op::Literal(_) => {}
                    Op::Input(_) | Op::Argument(_) | Op::Output(_) | Op::Index(_) | Op::History(_) => {
                        return false;
                    }
                    _ if group.nodes.contains(&operand) => return false,
                    op if diptych_passes::fuse::is_view(op) => stack.extend(graph.operands(operand)),
                    _ => return false,
                }
            }
            known.insert(id);
        }
        let leads = |&id: &NodeId| diptych_passes::layout::leading(graph.axes(id)) == Ok(Leading::None);
        let kept = group.nodes.iter().all(leads)
            && group.outputs.iter().all(|output| !scope.targets.contains_key(output));
        if kept {
            self.derived.extend(group.nodes.iter().map(|&id| (scope.region, id)));
        }
        kept
    }

    /// Where a value is; leaves of the main region get their buffers here.
    pub(super) fn place(&mut self, scope: &mut Scope, id: NodeId) -> Option<ArgRef> {
        if let Some(&place) = scope.places.get(&id) {
            return Some(place);
        }
        let region = scope.region;
        let role = match self.program.region(region).graph.op(id) {
            Op::Param(param) => Role::Stored(param.name),
            Op::Input(input) => Role::Input(input.name),
            _ => return self.derived_places.get(&(region, id)).copied(),
        };
        let slots = if matches!(role, Role::Stored(_)) { self.slots(region, id) } else { 1 };
        let place = ArgRef { buffer: self.role_buffer(role, region, id, slots), slot: Slot::First };
        scope.places.insert(id, place);
        Some(place)
    }

    /// The launch of a group, after that of what it needs besides: the grouping of its rows.
    pub(super) fn group(
        &mut self,
        scope: &mut Scope,
        group: &Group,
        at_load: bool,
        in_turns: bool,
    ) -> Result<Vec<Launch>, CompileError> {
        let region = scope.region;
        let values = self.values;
        let layout = |id: NodeId| values.get(region, id);
        let context = Context {
            program: self.program,
            region,
            identities: self.identities,
            layouts: self.layouts,
            layout: &layout,
            in_place: &self.fused[&region].in_place,
            goes_on: &|id| self.continued.contains(&(region, id)),
            in_turns: in_turns && group.sums_rows(),
            history_is_rename: !self.entry.kind.cached(),
            few_rows: (self.entry.kind == EntryKind::Decode).then_some(self.options.threads),
            panel: self.options.panel,
            blocks: self.options.blocks,
            operands_as_they_lie: matches!(self.options.language, Language::Cuda(_)),
        };
        if let Some([sum, _, both]) = self.added(region, group) {
            let place = scope.places.get(&sum).copied();
            let place = place.ok_or_else(|| self.error("rows are added to a sum that is not there"))?;
            scope.places.insert(both, place);
        }
        let mut launches = Vec::new();
        for lowered in lower(group, &context)? {
            if let Some(&Source::Order(ids, count)) = lowered.args.first()
                && !scope.between.contains_key(&Source::Order(ids, count))
            {
                let grouping = lower_grouping(ids, count, &context)?;
                self.add_grouping_buffers(scope, ids, count);
                launches.push(self.launch(scope, &[], grouping, at_load)?);
            }
            launches.push(self.launch(scope, &group.nodes, lowered, at_load)?);
        }
        Ok(launches)
    }

    /// The launch of a program that computes these nodes.
    fn launch(
        &mut self,
        scope: &mut Scope,
        nodes: &[NodeId],
        lowered: Lowered,
        at_load: bool,
    ) -> Result<Launch, CompileError> {
        let region = scope.region;
        let args = self.arguments(scope, &lowered, at_load)?;
        // What does not lie alike was lowered to a walk axis by axis.
        let walks_flat = |dim: &Dim| matches!(dim.extent, Extent::Flat { .. });
        let flat = match lowered.program.dims.iter().any(walks_flat) {
            true => {
                self.check_flat(region, nodes, lowered.program.grid.is_empty(), &args)?;
                let graph = &self.program.region(region).graph;
                let wide = nodes.iter().flat_map(|&id| graph.operands(id).into_iter().chain([id]));
                let wide: Vec<NodeId> = wide.filter(|&id| !graph.axes(id).is_empty()).collect();
                wide.first().map_or(1, |&id| {
                    self.slots(region, id) * self.values.get(region, id).row_elements(self.options.panel)
                })
            }
            false => 0,
        };
        let program = &lowered.program;
        let grid = program.grid.iter().map(|&dim| GridCount::of(program, dim, flat)).collect();
        let kernel = self.kernel(lowered.program)?;
        let (sources, sums) = (lowered.args, lowered.sums);
        Ok(Launch { kernel, args, sources, sums, flat, grid, region, nodes: nodes.to_vec(), time: self.time })
    }

    /// A buffer for what kernels of a group leave for one another.
    fn add_between(&mut self, scope: &mut Scope, source: Source, dtype: DType, layout: Layout) -> ArgRef {
        let (role, first, last) = (Role::Temporary, usize::MAX, 0);
        self.buffers.push(Buffer { role, dtype, layout, slots: 1, turn: None, first, last });
        let place = ArgRef { buffer: self.buffers.len() - 1, slot: Slot::First };
        scope.between.insert(source, place);
        place
    }

    /// Buffers for the grouping of rows by ids: a number a pair; two for each id, and two ends.
    fn add_grouping_buffers(&mut self, scope: &mut Scope, ids: NodeId, count: usize) {
        let layout = self.layouts.dense(self.program.region(scope.region).graph.ty(ids));
        let starts = Layout::Dense {
            leading: Leading::None,
            order: vec![diptych_ir::Axis::fixed("starts", 2 * (count + 1))],
        };
        self.add_between(scope, Source::Order(ids, count), DType::I32, layout);
        self.add_between(scope, Source::Starts(ids, count), DType::I32, starts);
    }

    /// Where the arguments of a kernel are; what it computes gets a place.
    fn arguments(
        &mut self,
        scope: &mut Scope,
        lowered: &Lowered,
        at_load: bool,
    ) -> Result<Vec<ArgRef>, CompileError> {
        let region = scope.region;
        let mut args = Vec::with_capacity(lowered.args.len());
        for (source, arg) in lowered.args.iter().zip(&lowered.program.args) {
            let place = match *source {
                Source::Order(..) | Source::Starts(..) => scope.between[source],
                Source::Chunks(node) => match scope.between.get(source) {
                    Some(&place) => place,
                    None => {
                        let layout = self.layouts.of_chunks(self.program.region(region).graph.ty(node));
                        self.add_between(scope, *source, DType::F32, layout)
                    }
                },
                Source::Cache(node) => {
                    let slots = scope.layers.unwrap_or(1);
                    let Op::History(history) = self.program.region(region).graph.op(node) else {
                        return Err(self.error("a cache of what is no history"));
                    };
                    let role = Role::Cache { room: history.room, window: history.window };
                    let buffer = self.role_buffer(role, region, node, slots);
                    ArgRef { buffer, slot: if scope.layers.is_some() { Slot::Layer } else { Slot::First } }
                }
                Source::State { scan, index } => {
                    let slots = scope.layers.unwrap_or(1);
                    let buffer = self.state_buffer(region, scan, index, slots)?;
                    ArgRef { buffer, slot: if scope.layers.is_some() { Slot::Layer } else { Slot::First } }
                }
                Source::Value(id) => match self.place(scope, id) {
                    Some(place) => place,
                    None if arg.written => self.new_place(scope, id, at_load),
                    None => {
                        let graph = &self.program.region(region).graph;
                        let problem = format!(
                            "`{}: {}` is read by `{}` before it is computed",
                            graph.op(id).name(),
                            graph.ty(id),
                            lowered.program.name
                        );
                        return Err(self.error(problem));
                    }
                },
            };
            self.check_layout(region, *source, place)?;
            self.touch(place);
            args.push(place);
        }
        if args.len() > crate::entry::MOST_ARGS {
            return Err(self.error(format!(
                "kernel `{}` takes {} buffers",
                lowered.program.name,
                args.len()
            )));
        }
        Ok(args)
    }

    /// A kernel reads panels where there are some, and nowhere else.
    fn check_layout(&self, region: RegionId, source: Source, place: ArgRef) -> Result<(), CompileError> {
        let Source::Value(id) = source else { return Ok(()) };
        let (stored, read) = (&self.buffers[place.buffer].layout, self.values.get(region, id));
        let packed = |layout: &Layout| {
            matches!(layout, Layout::Packed { .. } | Layout::Blocks { .. } | Layout::Rounded { .. })
        };
        if *stored == read || !packed(stored) && !packed(&read) {
            return Ok(());
        }
        let graph = &self.program.region(region).graph;
        Err(self.error(format!(
            "`{}: {}` is read in another way than it is stored",
            graph.op(id).name(),
            graph.ty(id)
        )))
    }

    /// A flat kernel walks memory: what it reads must be stored alike, and a
    /// sum may run over the zeros that fill up panels only if they stay zeros.
    fn check_flat(
        &self,
        region: RegionId,
        nodes: &[NodeId],
        sums: bool,
        args: &[ArgRef],
    ) -> Result<(), CompileError> {
        let graph = &self.program.region(region).graph;
        let layouts: Vec<&Layout> = args.iter().map(|place| &self.buffers[place.buffer].layout).collect();
        let wide: Vec<&Layout> = layouts.into_iter().filter(|layout| layout.row_elements(1) > 1).collect();
        if wide.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(
                self.error("parameters that are stored in different ways are combined element by element")
            );
        }
        let padded = wide.iter().any(|layout| match layout {
            Layout::Packed { n, .. } => !product(n).is_multiple_of(self.options.panel),
            _ => false,
        });
        let keeps_zero = |&id: &NodeId| match graph.op(id) {
            Op::Cast(_) => true,
            Op::Map(map) => matches!(map.0, ScalarFn::Mul | ScalarFn::Neg | ScalarFn::Abs | ScalarFn::Sqrt),
            Op::Reduce(reduce) => reduce.kind == ReduceKind::Sum,
            _ => false,
        };
        if sums && padded && !nodes.iter().all(keeps_zero) {
            return Err(
                self.error("a sum over a whole packed parameter of what is not zero where the parameter is")
            );
        }
        Ok(())
    }

    fn new_place(&mut self, scope: &mut Scope, id: NodeId, at_load: bool) -> ArgRef {
        let place = match (scope.targets.get(&id), at_load) {
            (Some(&target), _) => target,
            (None, true) => {
                let slots = scope.layers.unwrap_or(1) * self.slots(scope.region, id);
                let slot = if scope.layers.is_some() { Slot::Layer } else { Slot::First };
                ArgRef { buffer: self.add_buffer(Role::Derived, scope.region, id, slots), slot }
            }
            (None, false) => {
                let slots = self.slots(scope.region, id);
                ArgRef {
                    buffer: self.add_buffer(Role::Temporary, scope.region, id, slots),
                    slot: Slot::First,
                }
            }
        };
        scope.places.insert(id, place);
        if at_load {
            self.derived_places.insert((scope.region, id), place);
        }
        place
    }

    /// The kernel of a program; equal layers that are written out share theirs.
    fn kernel(&mut self, program: TileProgram) -> Result<usize, CompileError> {
        if let Some(known) = self.kernels.iter().position(|kernel| kernel.does_the_same_as(&program)) {
            return Ok(known);
        }
        let start = Instant::now();
        let name = &program.name;
        match self.options.language {
            Language::C => {
                let name = hashed(name, &c::write(&program, name).text);
                let mut text = c::write(&program, &name);
                text.scratch_floats = program.scratch_floats();
                self.texts.push(text);
            }
            Language::Cuda(architecture) => {
                let name = hashed(name, &cuda::write(&program, name, architecture)?.text);
                self.device_kernels.push(cuda::write(&program, &name, architecture)?);
            }
        }
        self.text_seconds += start.elapsed().as_secs_f64();
        self.kernels.push(program);
        Ok(self.kernels.len() - 1)
    }
}

/// A name with all bits of the hash of a kernel's text.
fn hashed(name: &str, text: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{name}_{hash:016x}")
}
