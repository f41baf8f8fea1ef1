//! All forms of a program that saturation found, region by region, and the
//! choice among them by cost. It knows no kernel.

use super::cost::Binding;
use super::extract::{Choice, Problem, best_found, costs, proven_bound, reach};
use super::liveness::{Live, live, parameter_arguments};
use super::region::{Kept, Saturated, Selection, Task, Wanted, build, costs_before, rebuild};
use super::report::{AlgebraReport, EntryCost, RegionReport, RegionSeconds, Seconds};
use super::rules::{Compiled, Rule, compile};
use super::saturate::{Saturation, saturate};
use super::{AlgebraError, Objective};
use diptych_ir::{EntryKind, NodeId, Op, Program, Size};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

/// A program with all forms that were found of it.
pub(super) struct Space<'p> {
    pub program: &'p Program,
    pub objective: &'p Objective,
    /// What each binding uses.
    uses: Vec<Live>,
    /// Nodes that must stay as they are, by region.
    frozen: Vec<HashSet<NodeId>>,
    param_arguments: Vec<HashSet<usize>>,
    /// Passes over each op that training is charged.
    training_passes: f64,
    regions: Vec<Region>,
    /// What everything that was done so far took, by region.
    spent: RefCell<Vec<Seconds>>,
}

struct Region {
    saturated: Saturated,
    saturation: Saturation,
    seconds: Seconds,
}

/// A form for each class of each region.
pub(super) struct Chosen {
    regions: Vec<(Selection, Choice, f64)>,
}

impl<'p> Space<'p> {
    /// Saturates every region of a program.
    ///
    /// # Errors
    /// When the objective lacks a size, or a rule proves unsound.
    pub fn saturate(
        program: &'p Program,
        objective: &'p Objective,
        rules: &[Rule],
        frozen: Vec<HashSet<NodeId>>,
        training_passes: f64,
    ) -> Result<Space<'p>, AlgebraError> {
        check_sizes(program, objective)?;
        let rules = compile(rules).map_err(AlgebraError::Rule)?;
        let mut space = Space {
            program,
            objective,
            uses: uses(program, objective),
            frozen,
            param_arguments: parameter_arguments(program),
            training_passes,
            regions: Vec::new(),
            spent: RefCell::default(),
        };
        for index in 0..program.regions.len() {
            let region = space.saturate_region(index, &rules)?;
            space.spent.borrow_mut().push(region.seconds);
            space.regions.push(region);
        }
        Ok(space)
    }

    /// Chooses for another objective from now on. What was found is equal whatever it is for.
    ///
    /// # Errors
    /// When the objective lacks a size.
    pub fn aim(&mut self, objective: &'p Objective) -> Result<(), AlgebraError> {
        check_sizes(self.program, objective)?;
        self.objective = objective;
        self.uses = uses(self.program, objective);
        Ok(())
    }

    fn saturate_region(&self, index: usize, rules: &[Compiled]) -> Result<Region, AlgebraError> {
        let mut seconds = Seconds::default();
        let mut lap = laps();
        let task = self.task(index);
        let mut saturated = build(&task)?;
        seconds.build = lap();
        let free = saturated.order.iter().any(|id| !task.frozen.contains(id));
        let rules = if free { rules } else { &[] };
        let limits = self.objective.limits.of_region(saturated.order.len());
        let saturation =
            saturate(&mut saturated.egraph, rules, &limits).map_err(|problem| task.unsound(problem))?;
        seconds.saturate = lap();
        Ok(Region { saturated, saturation, seconds })
    }

    fn task(&self, index: usize) -> Task<'_> {
        Task {
            program: self.program,
            index,
            objective: self.objective,
            uses: &self.uses,
            frozen: &self.frozen[index],
            param_arguments: &self.param_arguments[index],
            training_passes: self.training_passes,
        }
    }

    /// What everything that was done so far took, all choices and programs together.
    pub fn spent(&self) -> Vec<RegionSeconds> {
        let of = |(region, &seconds): (&diptych_ir::Region, &Seconds)| RegionSeconds {
            name: region.name,
            seconds,
        };
        self.program.regions.iter().zip(self.spent.borrow().iter()).map(of).collect()
    }

    /// The forms that cost least, among those that are wanted.
    pub fn choose(&self, wanted: Wanted) -> Chosen {
        let of = |(index, region): (usize, &Region)| {
            let mut lap = laps();
            let selection = Selection::new(&self.task(index), &region.saturated, wanted);
            let choice = best_found(&selection.problem);
            let seconds = lap();
            self.spent.borrow_mut()[index].extract += seconds;
            (selection, choice, seconds)
        };
        Chosen { regions: self.regions.iter().enumerate().map(of).collect() }
    }

    /// The same, if there is any form that is wanted.
    pub fn choose_within(&self, wanted: Wanted) -> Option<Chosen> {
        let chosen = self.choose(wanted);
        let whole = |(selection, choice, _): &(Selection, Choice, f64)| {
            let problem = &selection.problem;
            reach(problem, choice, &problem.kept).is_some()
        };
        chosen.regions.iter().all(whole).then_some(chosen)
    }

    /// The graph as it was.
    pub fn as_written(&self, wanted: Wanted) -> Chosen {
        let of = |(index, region): (usize, &Region)| {
            let selection = Selection::new(&self.task(index), &region.saturated, wanted);
            let choice = selection.problem.original.clone();
            (selection, choice, 0.0)
        };
        Chosen { regions: self.regions.iter().enumerate().map(of).collect() }
    }

    /// What is kept, for people to read: the value's name and type.
    pub fn describe(&self, kept: &Kept) -> String {
        let (region, program) = (&self.regions[kept.region], &self.program.regions[kept.region]);
        let egraph = &region.saturated.egraph;
        let class = egraph.find(kept.node.operands[0]);
        // Histories have no names of their own; what they are of may have one.
        let labels =
            region.saturated.order.iter().filter(|id| egraph.find(region.saturated.classes[id]) == class);
        let label = labels.into_iter().find_map(|&id| program.graph.node(id).label);
        let label = label.map_or_else(|| "a value".to_owned(), |label| label.to_string());
        format!("{label} {}", egraph[class].data.ty)
    }

    /// The problem of each region, to be searched offline, and how often the region runs.
    pub fn problems(&self, wanted: Wanted) -> impl Iterator<Item = (diptych_ir::Symbol, Problem, f64)> {
        let of = move |(index, region): (usize, &Region)| {
            let selection = Selection::new(&self.task(index), &region.saturated, wanted);
            (self.program.regions[index].name, selection.problem, selection.scale)
        };
        self.regions.iter().enumerate().map(of)
    }

    /// Weights that a choice derives from parameters in a way that the graph had not, and that other values are
    /// computed with: by region and class, with how they are derived.
    pub fn derived(&self, chosen: &Chosen) -> Vec<((usize, usize), String)> {
        let mut found = Vec::new();
        for (index, (selection, choice, _)) in chosen.regions.iter().enumerate() {
            let (problem, egraph) = (&selection.problem, &self.regions[index].saturated.egraph);
            let used = reach(problem, choice, &problem.kept).unwrap_or_default();
            let form = |class: usize| choice[class].map(|number| (number, &selection.nodes[class][number]));
            let param_only = |id: egg::Id| egraph[egraph.find(id)].data.param_only;
            for &class in &used {
                let Some((number, node)) = form(class) else { continue };
                let is_new = !problem.classes[class][number].original;
                let at_run = |&user: &usize| {
                    form(user).is_some_and(|(_, node)| {
                        node.operands.iter().any(|id| selection.numbers[&egraph.find(*id)] == class)
                            && !node.operands.iter().all(|&id| param_only(id))
                    })
                };
                if is_new
                    && !node.operands.is_empty()
                    && node.operands.iter().all(|&id| param_only(id))
                    && used.iter().any(at_run)
                {
                    found.push(((index, class), self.written(index, selection, choice, class, 3)));
                }
            }
        }
        found
    }

    /// A chosen form as text, its operands to this depth.
    fn written(
        &self,
        index: usize,
        selection: &Selection,
        choice: &Choice,
        class: usize,
        depth: usize,
    ) -> String {
        let (region, program) = (&self.regions[index], &self.program.regions[index]);
        let node = choice[class].map(|number| &selection.nodes[class][number]);
        let first = selection.firsts[class];
        let label = first.and_then(|first| program.graph.node(first).label);
        match (node, label, first) {
            (_, Some(label), _) => label.to_string(),
            (Some(node), None, _) if depth > 0 && !node.operands.is_empty() => {
                let number = |id: &egg::Id| selection.numbers[&region.saturated.egraph.find(*id)];
                let operands: Vec<String> = (node.operands.iter())
                    .map(|id| self.written(index, selection, choice, number(id), depth - 1))
                    .collect();
                format!("{}({})", node.op.name(), operands.join(", "))
            }
            (_, None, Some(first)) => super::report::expression(&program.graph, first, 0),
            (Some(node), ..) => node.op.name().to_owned(),
            (None, ..) => "a value".to_owned(),
        }
    }

    /// How often each rule brought something new, in all regions.
    pub fn fired(&self) -> BTreeMap<&'static str, usize> {
        let mut fired = BTreeMap::new();
        for (rule, count) in self.regions.iter().flat_map(|region| &region.saturation.fired) {
            *fired.entry(*rule).or_default() += count;
        }
        fired
    }

    /// No choice of the same kind costs less, all bindings together.
    pub fn lower_bound(&self, chosen: &Chosen) -> f64 {
        let bound = |(selection, choice, _): &(Selection, Choice, f64)| {
            selection.scale * proven_bound(&selection.problem, choice)
        };
        chosen.regions.iter().map(bound).sum()
    }

    /// The histories that a choice keeps in the caches of an entry.
    pub fn histories(&self, chosen: &Chosen, entry: EntryKind) -> BTreeSet<Kept> {
        let bindings = self.objective.bindings.iter().enumerate();
        let bindings: Vec<usize> =
            bindings.filter(|(_, binding)| binding.entry == entry).map(|(index, _)| index).collect();
        let regions = chosen.regions.iter().enumerate();
        regions
            .flat_map(|(index, (selection, choice, _))| {
                let roots = bindings.iter().flat_map(|&binding| &selection.problem.roots[binding]);
                let roots: Vec<usize> = roots.copied().collect();
                selection.histories(&self.task(index), choice, &roots)
            })
            .collect()
    }

    /// Seconds of a run of each binding, in the additive model, and what they come to with all factors.
    pub fn costs(&self, chosen: &Chosen) -> Vec<f64> {
        let mut sums = vec![0.0; self.objective.bindings.len()];
        for (index, (selection, choice, _)) in chosen.regions.iter().enumerate() {
            let of_region = costs(&selection.problem, choice).unwrap_or_default();
            for ((sum, cost), live) in sums.iter_mut().zip(of_region).zip(&self.uses) {
                *sum += cost * live.runs[index];
            }
        }
        sums
    }

    /// The same of the graph as it was.
    pub fn costs_as_written(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.objective.bindings.len()];
        for (index, region) in self.regions.iter().enumerate() {
            let of_region = costs_before(&self.task(index), &region.saturated);
            for ((sum, cost), live) in sums.iter_mut().zip(of_region).zip(&self.uses) {
                *sum += cost * live.runs[index];
            }
        }
        sums
    }

    /// The program of the wanted entries, in the forms that were chosen. `rooms` numbers the caches.
    ///
    /// # Errors
    /// When the graph refuses a rewrite.
    pub fn rebuild(
        &self,
        chosen: &Chosen,
        entries: &[EntryKind],
        rooms: &BTreeMap<Kept, usize>,
    ) -> Result<(Program, AlgebraReport), AlgebraError> {
        let mut program = self.program.clone();
        program.entries.retain(|entry| entries.contains(&entry.kind));
        let mut report = AlgebraReport::default();
        // What stays as it is keeps its room, too.
        let own = program.ops().filter_map(|op| match op {
            Op::History(history) => Some(history.room),
            _ => None,
        });
        let fresh = rooms.values().copied().chain(own).max().map_or(0, |room| room + 1);
        let mut further: BTreeMap<Kept, usize> = BTreeMap::new();
        for (index, (region, (selection, choice, extraction))) in
            self.regions.iter().zip(&chosen.regions).enumerate()
        {
            let task = self.task(index);
            let mut lap = laps();
            // Only training keeps these, where a history is a name.
            let all: Vec<usize> = selection.problem.kept.clone();
            for kept in selection.histories(&task, choice, &all) {
                if !rooms.contains_key(&kept) {
                    let room = fresh + further.len();
                    further.entry(kept).or_insert(room);
                }
            }
            let room = |kept: &Kept| rooms.get(kept).or_else(|| further.get(kept)).copied();
            let changes = rebuild(&task, &region.saturated, selection, choice, &room, &mut program)?;
            let seconds = Seconds { extract: *extraction, rebuild: lap(), ..region.seconds };
            self.spent.borrow_mut()[index].rebuild += seconds.rebuild;
            let after = costs(&selection.problem, choice).unwrap_or_default();
            let before = costs_before(&task, &region.saturated);
            let bindings = self.objective.bindings.iter().zip(&self.uses).zip(before.into_iter().zip(after));
            let costs = bindings
                .filter(|((binding, _), _)| entries.contains(&binding.entry))
                .map(|((binding, live), (before, after))| {
                    let runs = live.runs[index];
                    EntryCost { entry: binding.entry, before: before * runs, after: after * runs }
                })
                .collect();
            report.regions.push(RegionReport {
                name: self.program.regions[index].name,
                fired: region.saturation.fired.clone(),
                nodes: region.saturated.egraph.total_number_of_nodes(),
                classes: region.saturated.egraph.number_of_classes(),
                rounds: region.saturation.rounds,
                stop: region.saturation.stop,
                costs,
                changes,
                seconds,
            });
        }
        diptych_ir::verify(&program)?;
        Ok((program, report))
    }
}

/// What each binding of an objective uses.
fn uses(program: &Program, objective: &Objective) -> Vec<Live> {
    let used = |binding: &Binding| {
        let roots: Vec<NodeId> = (program.entry(binding.entry).iter())
            .flat_map(|entry| entry.roots.iter().chain(&entry.updates).map(|root| root.1))
            .collect();
        live(program, &roots, &|axis| binding.size(axis).unwrap_or(1.0))
    };
    objective.bindings.iter().map(used).collect()
}

/// Seconds since the last call.
fn laps() -> impl FnMut() -> f64 {
    let mut clock = Instant::now();
    move || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64()
}

fn check_sizes(program: &Program, objective: &Objective) -> Result<(), AlgebraError> {
    let bindings = || objective.bindings.iter().filter(|binding| program.entry(binding.entry).is_some());
    for region in &program.regions {
        for axis in region.graph.ids().into_iter().flat_map(|id| region.graph.axes(id).iter().copied()) {
            for binding in bindings() {
                if let (None, Size::Symbolic(symbol)) = (binding.size(axis), axis.size) {
                    return Err(AlgebraError::Size { entry: binding.entry.name(), symbol });
                }
            }
        }
    }
    Ok(())
}
