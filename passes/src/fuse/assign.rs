//! Assigns each computed node of a region to a group: streaming groups first,
//! then the rest, each joining the last group that it fits. It decides no
//! block sizes.

use super::gathered::{gathered, grouped_gradient};
use super::roles::Roles;
use super::units::Units;
use super::{
    FuseError, FuseOptions, Group, GroupKind, Overwritten, RegionSteps, Rows, Step, StreamedAxes, past,
    scans, streams, turns,
};
use crate::layout::{Leading, symbol};
use diptych_ir::ops::Map;
use diptych_ir::{NodeId, Op, Program, RegionId, ScalarFn};
use std::collections::{HashMap, HashSet};

/// Contractions of few rows share a kernel only if their common axis has so many positions to divide them by: three
/// key-value heads leave one of two threads waiting for a third of the time, sixteen a thread of eight for none.
const FINE: usize = 16;

/// Something that is done at once: a group, or a repeat.
enum Unit {
    Group(Group),
    Repeat(NodeId),
}

struct Assignment<'a> {
    roles: Roles<'a>,
    options: FuseOptions,
    /// What is to be overwritten.
    overwritten: &'a [Overwritten],
    work: Vec<Unit>,
    /// The unit that stores or yields each node; a streamed node has none.
    units: Units,
}

/// The groups of one region.
pub(super) fn region(
    program: &Program,
    id: RegionId,
    roots: &[NodeId],
    overwritten: &[Overwritten],
    streamed: &StreamedAxes,
    options: FuseOptions,
) -> Result<RegionSteps, FuseError> {
    let region = program.region(id);
    let order = scans::needed(&region.graph, roots);
    let roles = Roles::of(program, id, &order, roots, streamed, options.history_is_rename)?;
    let mut units = Units::new(&roles, &order);
    let streams = streams::groups(&roles, &order, &mut units);
    let work = streams.into_iter().map(Unit::Group).collect();
    let mut state = Assignment { roles, options, overwritten, work, units };
    for &node in &order {
        if state.units.of(node).is_some() {
            past::refuse_sums(&state.roles, node)?;
        }
        if matches!(region.graph.op(node), Op::Repeat(_)) {
            state.refuse_streamed_operands(node)?;
            past::refuse_operands(&state.roles, node)?;
            let unit = state.add(Unit::Repeat(node));
            state.units.join(node, unit);
        }
        if matches!(region.graph.op(node), Op::Scan(_)) {
            state.refuse_streamed_operands(node)?;
            past::refuse_operands(&state.roles, node)?;
            let group = Group { kind: GroupKind::Scan, nodes: vec![node], outputs: Vec::new() };
            let unit = state.add(Unit::Group(group));
            state.units.join(node, unit);
        }
    }
    for &node in &order {
        if state.roles.is_computed(node) && state.units.of(node).is_none() && !state.roles.is_streamed(node) {
            state.place(node)?;
        }
    }
    past::refuse_results(&state.roles, roots)?;
    state.finish(&order, roots)
}

impl Assignment<'_> {
    fn add(&mut self, unit: Unit) -> usize {
        self.work.push(unit);
        self.units.add()
    }

    /// What a loop is given lies in memory, which what grows with the square of the positions cannot.
    fn refuse_streamed_operands(&self, repeat: NodeId) -> Result<(), FuseError> {
        match self.roles.sources(repeat).into_iter().find(|&source| self.roles.is_streamed(source)) {
            Some(source) => {
                let problem = "is given to a repeat, but is too large to be stored: compute it in the repeat";
                Err(self.roles.error(source, problem.to_owned()))
            }
            None => Ok(()),
        }
    }

    fn place(&mut self, id: NodeId) -> Result<(), FuseError> {
        let kind = self.kind(id)?;
        past::refuse_kind(&self.roles, id, &kind)?;
        if kind == GroupKind::FlatSum
            && let Some(mut nodes) = self.read_by_sum_alone(id)
        {
            let unit = self.add(Unit::Group(Group { kind, nodes: Vec::new(), outputs: Vec::new() }));
            self.units.move_to(&nodes, unit);
            self.units.join(id, unit);
            for other in &mut self.work {
                if let Unit::Group(group) = other {
                    group.nodes.retain(|node| !nodes.contains(node));
                }
            }
            nodes.push(id);
            if let Unit::Group(group) = &mut self.work[unit] {
                group.nodes = nodes;
            }
            return Ok(());
        }
        if let Some(unit) = self.added_rows(id) {
            if let Unit::Group(group) = &mut self.work[unit] {
                group.kind = GroupKind::AddedRows;
                group.nodes.push(id);
            }
            self.units.join(id, unit);
            return Ok(());
        }
        let inputs = self.units.inputs(id);
        let mut candidates: Vec<usize> = inputs.iter().copied().collect();
        // A contraction may also join one that shares its left operand.
        if matches!(self.roles.graph.op(id), Op::Contract(_)) {
            candidates.extend((0..self.work.len()).filter(|unit| !inputs.contains(unit)));
        }
        candidates.sort_unstable();
        let fits = |&unit: &usize| self.may_join(id, &kind, unit) && self.units.can_join(id, unit);
        let unit = match candidates.iter().rev().copied().find(|unit| fits(unit)) {
            Some(unit) => unit,
            None => {
                self.add(Unit::Group(Group { kind: kind.clone(), nodes: Vec::new(), outputs: Vec::new() }))
            }
        };
        if let Unit::Group(group) = &mut self.work[unit] {
            if kind == GroupKind::Rows(Leading::Past) {
                // What depends on positions so far alone is formed where it is read.
                group.nodes.extend(streams::streamed_ancestors(&self.roles, id));
            }
            group.nodes.push(id);
        }
        self.units.join(id, unit);
        self.gather_flat(id, unit);
        Ok(())
    }

    /// Where a node adds the rows that a `put_add` puts into a table to a sum of the same axes, and nothing else reads
    /// either: the unit of the `put_add`. As two gradients of one table are added, neither needs a place of its own.
    fn added_rows(&self, id: NodeId) -> Option<usize> {
        let graph = self.roles.graph;
        let operands = graph.operands(id);
        let is_rows = |&operand: &NodeId| matches!(graph.op(operand), Op::PutAdd(_));
        let (Op::Map(Map(ScalarFn::Add)), Some(&rows)) =
            (graph.op(id), operands.iter().find(|id| is_rows(id)))
        else {
            return None;
        };
        let sum = operands.into_iter().find(|&operand| operand != rows)?;
        let alone = |node: NodeId| graph.users(node) == [id] && !self.roles.is_wanted(node);
        let is_stored_sum = |unit: usize| match &self.work[unit] {
            Unit::Group(group) => match &group.kind {
                GroupKind::OverRows(_) => group.nodes.contains(&sum),
                GroupKind::Stream(_) => group.nodes.contains(&sum) && group.sums_rows(),
                _ => false,
            },
            Unit::Repeat(_) => false,
        };
        let alike = [rows, sum].iter().all(|&node| graph.ty(node) == graph.ty(id));
        let overwrites = self.overwritten.iter().any(|overwritten| overwritten.new == id);
        if !alike
            || !alone(rows)
            || !alone(sum)
            || overwrites
            || !self.units.of(sum).is_some_and(is_stored_sum)
        {
            return None;
        }
        let (Op::PutAdd(put), &[ids, values]) = (graph.op(rows), &graph.operands(rows)[..]) else {
            return None;
        };
        let of_tokens = graph.axes(ids).iter().all(|axis| symbol(*axis).is_some() && put.over.contains(axis));
        let given = |node: NodeId| !self.roles.is_free(self.roles.base(node));
        let unit = self.units.of(rows)?;
        let fits = self.roles.leading(ids) == Leading::Rows
            && of_tokens
            && given(ids)
            && given(values)
            && matches!(&self.work[unit], Unit::Group(group) if group.kind == GroupKind::Scatter && group.nodes == [rows]);
        (fits && self.units.can_join(id, unit)).then_some(unit)
    }

    /// Takes into a flat group the others that its new member reads: neither of their values need be stored then.
    fn gather_flat(&mut self, id: NodeId, unit: usize) {
        let graph = self.roles.graph;
        let alike = |work: &[Unit], unit: usize| match &work[unit] {
            Unit::Group(group) => {
                let same = |&node: &NodeId| graph.axes(node) == graph.axes(id) && !self.roles.is_free(node);
                group.kind == GroupKind::Flat && group.nodes.iter().all(same)
            }
            Unit::Repeat(_) => false,
        };
        if !alike(&self.work, unit) {
            return;
        }
        let mut others: Vec<usize> = self.units.inputs(id).into_iter().collect();
        others.retain(|&other| other != unit && alike(&self.work, other));
        others.sort_unstable();
        for other in others {
            if !self.units.can_merge(other, unit) {
                continue;
            }
            self.units.merge(other, unit);
            let moved = match &mut self.work[other] {
                Unit::Group(group) => std::mem::take(&mut group.nodes),
                Unit::Repeat(_) => Vec::new(),
            };
            if let Unit::Group(group) = &mut self.work[unit] {
                group.nodes.extend(moved);
            }
        }
    }

    /// The values of a pointwise group that a sum over all elements reads, and nothing else does: they are then
    /// computed where they are summed, and never stored.
    fn read_by_sum_alone(&self, id: NodeId) -> Option<Vec<NodeId>> {
        let graph = self.roles.graph;
        let source = self.roles.base(graph.operands(id)[0]);
        let Unit::Group(group) = &self.work[self.units.of(source)?] else { return None };
        if group.kind != GroupKind::Flat {
            return None;
        }
        let mut alone = vec![id];
        for &node in group.nodes.iter().rev() {
            let only_here = graph.users(node).iter().all(|user| alone.contains(user));
            if only_here && !self.roles.is_wanted(node) {
                alone.push(node);
            }
        }
        alone.remove(0);
        alone.reverse();
        alone.contains(&source).then_some(alone)
    }

    /// The kind of group that a node would found.
    fn kind(&self, id: NodeId) -> Result<GroupKind, FuseError> {
        let graph = self.roles.graph;
        let rows = self.roles.leading(id);
        if let Some(found) = gathered(graph, id) {
            return Ok(GroupKind::Grouped(found.grouping));
        }
        if let Some(grouping) = grouped_gradient(graph, id) {
            return Ok(GroupKind::OverGrouped(grouping));
        }
        if let Op::PutAdd(_) = graph.op(id) {
            return Ok(GroupKind::Scatter);
        }
        if let Some(over) = streams::summed(graph.op(id)) {
            let source = graph
                .operands(id)
                .into_iter()
                .map(|operand| self.roles.leading(operand))
                .find(|&leading| leading != Leading::None);
            let symbols = over.iter().filter(|&&axis| symbol(axis).is_some()).count();
            match source {
                Some(source) if symbols > 0 && rows == Leading::None => {
                    return Ok(GroupKind::OverRows(source));
                }
                Some(_) if symbols > 0 => {
                    let problem =
                        "sums over some run-time axes only: sum over all of them, or over none".to_owned();
                    return Err(self.roles.error(id, problem));
                }
                None if matches!(graph.op(id), Op::Reduce(_)) && graph.axes(id).is_empty() => {
                    return Ok(GroupKind::FlatSum);
                }
                _ => {}
            }
        }
        let is_contraction = matches!(
            graph.op(id),
            Op::Contract(_) | Op::Reduce(_) | Op::Concat(_) | Op::Take(_) | Op::TopK(_) | Op::RoundBlocks(_)
        );
        let alike = || {
            graph
                .operands(id)
                .iter()
                .all(|&operand| graph.axes(operand).is_empty() || graph.axes(operand) == graph.axes(id))
        };
        if rows == Leading::None && !is_contraction && !graph.axes(id).is_empty() && alike() {
            return Ok(GroupKind::Flat);
        }
        Ok(GroupKind::Rows(rows))
    }

    fn may_join(&self, id: NodeId, kind: &GroupKind, unit: usize) -> bool {
        let graph = self.roles.graph;
        let Unit::Group(group) = &self.work[unit] else { return false };
        // What is read in place is so in every group: none computes it for itself, only to be stored.
        if self.roles.is_free(id) || group.nodes.iter().any(|&node| self.roles.is_free(node)) {
            return false;
        }
        let pointwise = matches!(graph.op(id), Op::Map(_) | Op::Cast(_) | Op::Concat(_));
        match (kind, &group.kind) {
            (GroupKind::Rows(_), GroupKind::Stream(axes)) => pointwise && self.follows_stream(id, axes),
            (GroupKind::Rows(rows), GroupKind::Rows(theirs)) if rows == theirs => match graph.op(id) {
                Op::Contract(_) => *rows != Leading::None && self.contraction_joins(id, group),
                Op::Reduce(_) => self.options.rows == Rows::Many || !self.after_contraction(id, group),
                // A choice is read from where it is stored, by what comes after its group.
                Op::TopK(_) => {
                    *rows != Leading::None
                        && (self.options.rows == Rows::Many || !self.after_contraction(id, group))
                }
                Op::Take(_) => false,
                Op::RoundBlocks(_) => !self.after_contraction(id, group),
                _ if self.reads_choice(id, group) => false,
                _ => *rows != Leading::None || graph.axes(id).is_empty(),
            },
            (GroupKind::Flat, GroupKind::Flat) => {
                group.nodes.iter().all(|&node| graph.axes(node) == graph.axes(id))
            }
            (GroupKind::OverRows(rows), GroupKind::OverRows(theirs)) => {
                rows == theirs && self.sums_alike(id, group)
            }
            (
                GroupKind::Flat | GroupKind::Rows(Leading::None),
                GroupKind::OverRows(_) | GroupKind::OverGrouped(_),
            ) => {
                let alike = |&node: &NodeId| graph.axes(node) == graph.axes(id);
                pointwise && group.nodes.iter().all(alike) && self.takes_the_place_of_sums(id, group)
            }
            (GroupKind::Grouped(grouping), GroupKind::Grouped(theirs)) => {
                grouping == theirs && self.contraction_joins(id, group)
            }
            (GroupKind::Rows(rows), GroupKind::Grouped(grouping)) => {
                *rows == grouping.leading && self.follows_pairs(id, grouping)
            }
            _ => false,
        }
    }

    /// Whether a node is all that reads the sums of a group. Where parameters are overwritten, what is computed from a
    /// gradient several times reads it from memory: it would be stored besides.
    fn takes_the_place_of_sums(&self, id: NodeId, group: &Group) -> bool {
        let graph = self.roles.graph;
        let sums = self.roles.sources(id).into_iter().filter(|source| group.nodes.contains(source));
        self.overwritten.is_empty() || sums.into_iter().all(|sum| graph.users(sum).len() == 1)
    }

    /// A pointwise node on what a stream leaves: it must have the axes of its instances.
    fn follows_stream(&self, id: NodeId, axes: &super::StreamAxes) -> bool {
        use super::StreamAxis::*;
        let has = match axes.across {
            Time => self.roles.leading(id) == Leading::Rows,
            Past => self.roles.leading(id) == Leading::Past,
            Rows(leading) => self.roles.leading(id) == leading,
            Fixed(axis) => self.roles.graph.axes(id).contains(axis),
        };
        has && axes.each.iter().all(|&axis| self.roles.graph.axes(id).contains(axis))
    }

    /// A pointwise node on what chosen weights give: it must be one value a pair, and not one that
    /// is only summed over the pairs of a row, since those are in different instances.
    fn follows_pairs(&self, id: NodeId, grouping: &super::Grouping) -> bool {
        let graph = self.roles.graph;
        let summed = |user: NodeId| matches!(graph.op(user), Op::Reduce(reduce) if grouping.choices.iter().any(|axis| reduce.over.contains(axis)));
        let users = graph.users(id);
        matches!(graph.op(id), Op::Map(_) | Op::Cast(_))
            && graph.axes(id).contains_all(&grouping.choices)
            && (self.roles.is_wanted(id) || users.is_empty() || !users.into_iter().all(summed))
    }

    /// Whether a node reads what a `top_k` of the group has chosen.
    fn reads_choice(&self, id: NodeId, group: &Group) -> bool {
        let chosen = |source: &NodeId| matches!(self.roles.graph.op(*source), Op::TopK(_));
        self.roles.sources(id).iter().any(|source| chosen(source) && group.nodes.contains(source))
    }

    /// Whether a node depends on a contraction of the group.
    fn after_contraction(&self, id: NodeId, group: &Group) -> bool {
        let mut stack = self.roles.sources(id);
        while let Some(source) = stack.pop() {
            if group.nodes.contains(&source) {
                if matches!(self.roles.graph.op(source), Op::Contract(_)) {
                    return true;
                }
                stack.extend(self.roles.sources(source));
            }
        }
        false
    }

    /// Contractions share a kernel if they share their left operand and divide
    /// alike: by the same first column axis.
    fn contraction_joins(&self, id: NodeId, group: &Group) -> bool {
        if self.after_contraction(id, group) {
            return false;
        }
        // What is divided by an axis of few positions leaves threads without work.
        let coarse = |axis: diptych_ir::Axis| axis.fixed_size().is_some_and(|size| size < FINE);
        let few = self.options.rows == Rows::Few && self.roles.leading(id) != Leading::Past;
        if (few || self.options.fine_columns) && self.column_axis(id).is_some_and(coarse) {
            return false;
        }
        let left = self.left(id);
        let others: Vec<NodeId> = group
            .nodes
            .iter()
            .copied()
            .filter(|&node| matches!(self.roles.graph.op(node), Op::Contract(_)))
            .collect();
        match others.first() {
            None => {
                // Each block of columns would round the rows for itself, which takes longer than a kernel more.
                let left = self.roles.base(left);
                let rounds = matches!(self.roles.graph.op(left), Op::RoundBlocks(_));
                group.nodes.contains(&left)
                    && !rounds
                    && self.may_be_kept(left)
                    && self.serves_alone(group, id)
            }
            Some(&other) => {
                let same = self.left(other) == left || self.sums_with(id, other);
                same && self.column_axis(other) == self.column_axis(id)
            }
        }
    }

    /// Whether nothing but a contraction reads what a group leaves, where columns are divided finely: every block of columns
    /// would store it.
    fn serves_alone(&self, group: &Group, contraction: NodeId) -> bool {
        let read_here = |user: NodeId| user == contraction || group.nodes.contains(&user);
        let alone = |&node: &NodeId| {
            !self.roles.is_wanted(node) && self.roles.graph.users(node).into_iter().all(read_here)
        };
        !self.options.fine_columns || group.nodes.iter().all(alone)
    }

    /// Whether an instance has room for its rows of a value.
    fn may_be_kept(&self, id: NodeId) -> bool {
        let sizes = self.roles.graph.axes(id).iter().filter_map(|axis| axis.fixed_size());
        sizes.product::<usize>() <= self.options.operand_elements
    }

    /// Two contractions whose results are added: one column block serves both.
    fn sums_with(&self, id: NodeId, other: NodeId) -> bool {
        let graph = self.roles.graph;
        let users = graph.users(id);
        graph.axes(id) == graph.axes(other) && graph.users(other).iter().any(|user| users.contains(user))
    }

    fn sums_alike(&self, id: NodeId, group: &Group) -> bool {
        let graph = self.roles.graph;
        let reduce = |id: NodeId| matches!(graph.op(id), Op::Reduce(_));
        reduce(id) && group.nodes.iter().all(|&node| reduce(node) && graph.axes(node) == graph.axes(id))
    }

    /// The operand with run-time rows.
    fn left(&self, id: NodeId) -> NodeId {
        if let Some(found) = gathered(self.roles.graph, id) {
            return found.rows;
        }
        let operands = self.roles.graph.operands(id);
        operands
            .iter()
            .copied()
            .find(|&operand| self.roles.leading(operand) != Leading::None)
            .unwrap_or(operands[0])
    }

    fn column_axis(&self, id: NodeId) -> Option<diptych_ir::Axis> {
        let graph = self.roles.graph;
        let found = gathered(graph, id);
        let of_weight = |axis: &diptych_ir::Axis| {
            found.as_ref().is_none_or(|found| graph.axes(found.table).contains(*axis))
        };
        let fixed = graph.axes(id).iter().copied().filter(|axis| axis.fixed_size().is_some());
        let left = graph.axes(self.left(id));
        graph.ordered(fixed.filter(|axis| !left.contains(*axis) && of_weight(axis))).first().copied()
    }

    /// Whether a group leaves something behind: what others read, or what a cache keeps.
    fn stores(&self, group: &Group) -> bool {
        group.kind == GroupKind::Scan
            || !group.outputs.is_empty()
            || group.nodes.iter().any(|&node| self.roles.is_wanted(node))
    }

    /// The units that overwrite something, each with the others that read it before.
    fn overwriting(&self) -> HashMap<usize, HashSet<usize>> {
        let graph = self.roles.graph;
        let mut found: HashMap<usize, HashSet<usize>> = HashMap::new();
        for &Overwritten { old, new } in self.overwritten {
            let new = self.roles.base(new);
            let computed_by = match graph.op(new) {
                Op::Output(_) => graph.operands(new)[0],
                _ => new,
            };
            let Some(unit) = self.units.of(computed_by) else { continue };
            let members = |unit: usize| match &self.work[unit] {
                Unit::Group(group) => group.nodes.clone(),
                Unit::Repeat(node) => vec![*node],
            };
            let reads = |other: &usize| {
                members(*other).into_iter().any(|member| self.roles.sources(member).contains(&old))
            };
            let others = (0..self.work.len()).filter(|&other| other != unit).filter(reads);
            found.entry(unit).or_default().extend(others);
        }
        found
    }

    /// Whether what a unit leaves takes no room: numbers, of which what they are computed from is no longer needed.
    fn only_frees(&self, unit: usize) -> bool {
        matches!(&self.work[unit], Unit::Group(group) if group.kind == GroupKind::FlatSum)
    }

    /// Outputs, and the order of the units.
    fn finish(mut self, order: &[NodeId], roots: &[NodeId]) -> Result<RegionSteps, FuseError> {
        let mut read: HashMap<NodeId, HashSet<usize>> = HashMap::new();
        let roots: HashSet<NodeId> = roots.iter().map(|&root| self.roles.base(root)).collect();
        for (index, unit) in self.work.iter().enumerate() {
            let members = match unit {
                Unit::Group(group) => group.nodes.clone(),
                Unit::Repeat(node) => vec![*node],
            };
            for member in members {
                for source in self.roles.sources(member) {
                    read.entry(source).or_default().insert(index);
                }
            }
        }
        let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let mut stored_stream: HashSet<NodeId> = HashSet::new();
        for index in 0..self.work.len() {
            let Unit::Group(group) = &mut self.work[index] else { continue };
            group.nodes.sort_by_key(|node| position[node]);
            group.nodes.dedup();
            for &node in &group.nodes {
                let elsewhere = read.get(&node).is_some_and(|units| units.iter().any(|&unit| unit != index));
                let chosen = matches!(self.roles.graph.op(node), Op::TopK(_));
                let stored = if chosen {
                    true
                } else if self.roles.is_streamed(node) {
                    roots.contains(&node) && stored_stream.insert(node)
                } else {
                    roots.contains(&node) || elsewhere
                };
                if stored {
                    group.outputs.push(node);
                }
            }
            if group.kind == GroupKind::Scan {
                let scan = group.nodes[0];
                let results = order.iter().copied().filter(|&id| {
                    matches!(self.roles.graph.op(id), Op::Output(_))
                        && self.roles.graph.operands(id)[0] == scan
                });
                group.outputs = results.collect();
            }
        }
        for &root in &roots {
            if self.roles.is_streamed(root) && !stored_stream.contains(&root) {
                return Err(self.roles.error(root, "is asked for, but is too large to be stored".into()));
            }
        }
        let needs: Vec<HashSet<usize>> = (0..self.work.len()).map(|unit| self.units.needs(unit)).collect();
        let mut steps = Vec::new();
        let mut taken = HashSet::new();
        let overwriting = self.overwriting();
        while taken.len() < self.work.len() {
            let ready = || {
                let is_ready = |unit: &usize| !taken.contains(unit) && needs[*unit].is_subset(&taken);
                (0..self.work.len()).filter(is_ready)
            };
            let allowed = |unit: &usize| overwriting.get(unit).is_none_or(|after| after.is_subset(&taken));
            let urgent = |unit: &usize| overwriting.contains_key(unit) || self.only_frees(*unit);
            let ready = ready()
                .find(|unit| !overwriting.is_empty() && urgent(unit) && allowed(unit))
                .or_else(|| ready().find(allowed))
                .or_else(|| ready().next());
            // Units that need one another in a circle are a bug of `Units::can_join`.
            let Some(ready) = ready else {
                return Err(self.roles.error(order[0], "the groups need one another in a circle".into()));
            };
            taken.insert(ready);
            if matches!(&self.work[ready], Unit::Group(group) if !self.stores(group)) {
                continue;
            }
            steps.push(match &self.work[ready] {
                Unit::Group(group) => Step::Group(group.clone()),
                Unit::Repeat(node) => Step::Repeat(*node),
            });
        }
        let in_place = order.iter().copied().filter(|&id| self.roles.is_free(id)).collect();
        // Where there are caches, rows belong to sequences.
        let steps = if self.options.history_is_rename {
            turns::join(&self.roles, steps, self.options.fine_columns)
        } else {
            steps
        };
        Ok(RegionSteps { steps, in_place })
    }
}
