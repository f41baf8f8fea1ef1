//! How each stored value of an entry is laid out: parameters as chosen,
//! gradients and new parameters as the parameters they go with, weights that
//! are derived from others in panels, everything else row-major.

use diptych_ir::{NodeId, Op, Program, Region, RegionId, Symbol};
use diptych_passes::layout::{Layout, Layouts, Leading, Weights, parameter_names};
use std::collections::HashMap;

/// Layouts of the values that are not row-major.
pub struct ValueLayouts<'a> {
    program: &'a Program,
    layouts: &'a Layouts,
    special: HashMap<(RegionId, NodeId), Layout>,
}

impl<'a> ValueLayouts<'a> {
    /// Follows layouts from parameters to what is computed from them alone, and
    /// from the targets of updates back to what they are computed from.
    pub fn of(program: &'a Program, layouts: &'a Layouts, updates: &[(Symbol, NodeId)]) -> ValueLayouts<'a> {
        let mut values = ValueLayouts { program, layouts, special: HashMap::new() };
        for (place, name) in parameter_names(program) {
            if let Some(layout) = layouts.params.get(&name) {
                values.special.insert(place, layout.clone());
            }
        }
        for (name, node) in updates {
            if let Some(layout) = layouts.params.get(name) {
                values.assign(Program::MAIN, *node, layout);
            }
        }
        for (index, region) in program.regions.iter().enumerate() {
            values.keep_states(RegionId(index as u32), region);
        }
        for ((region, node), layout) in Weights::of(program, layouts).derived {
            if !matches!(program.region(region).graph.op(node), Op::Argument(_)) {
                values.special.entry((region, node)).or_insert(layout);
            }
        }
        // What crosses into or out of a loop may settle what lies alike there.
        loop {
            let known = values.special.len();
            for (index, region) in program.regions.iter().enumerate() {
                values.inherit(RegionId(index as u32), region);
            }
            for (index, region) in program.regions.iter().enumerate() {
                values.cross_loops(RegionId(index as u32), region);
            }
            if values.special.len() == known {
                return values;
            }
        }
    }

    fn packed(&self, value: (RegionId, NodeId)) -> Option<&Layout> {
        self.special.get(&value).filter(|layout| matches!(layout, Layout::Packed { .. }))
    }

    /// What is computed element by element lies as what it is computed from.
    fn inherit(&mut self, id: RegionId, region: &Region) {
        for node in region.graph.topological_order() {
            if self.special.contains_key(&(id, node))
                || !matches!(region.graph.op(node), Op::Map(_) | Op::Cast(_))
            {
                continue;
            }
            let mut alike = region.graph.operands(node);
            alike.retain(|&operand| region.graph.axes(operand) == region.graph.axes(node));
            let inherited = alike.into_iter().find_map(|operand| self.packed((id, operand)).cloned());
            if let Some(layout) = inherited {
                self.assign(id, node, &layout);
            }
        }
    }

    /// Arguments of repeats lie as what is given for them, stacked or for all layers; so do stacked results.
    fn cross_loops(&mut self, id: RegionId, region: &Region) {
        let graph = &region.graph;
        for node in graph.topological_order() {
            match graph.op(node) {
                Op::Repeat(repeat) => {
                    let arguments = &self.program.region(repeat.body).arguments;
                    for (operand, &argument) in
                        graph.operands(node).into_iter().zip(arguments).skip(repeat.carried)
                    {
                        if let Some(layout) = self.packed((id, operand)).cloned() {
                            self.special.entry((repeat.body, argument)).or_insert(layout);
                        }
                    }
                }
                Op::Output(output) => {
                    let Op::Repeat(repeat) = graph.op(graph.operands(node)[0]) else { continue };
                    let result = self.program.region(repeat.body).results[output.index];
                    if output.index >= repeat.carried
                        && let Some(layout) = self.packed((repeat.body, result)).cloned()
                    {
                        self.special.entry((id, node)).or_insert(layout);
                    }
                }
                _ => {}
            }
        }
    }

    /// States that a scan keeps for replays are stored at some positions only.
    fn keep_states(&mut self, id: RegionId, region: &Region) {
        for node in region.graph.ids() {
            let Op::Output(output) = region.graph.op(node) else { continue };
            if let Op::Scan(scan) = region.graph.op(region.graph.operands(node)[0])
                && output.index + scan.kept >= scan.results.len()
                && let Layout::Dense { order, .. } = self.layouts.dense(region.graph.ty(node))
            {
                let layout = Layout::Dense { leading: Leading::Checkpoints, order };
                self.special.insert((id, node), layout);
            }
        }
    }

    fn assign(&mut self, region: RegionId, node: NodeId, layout: &Layout) {
        if self.special.get(&(region, node)) == Some(layout) {
            return;
        }
        let graph = &self.program.region(region).graph;
        if matches!(graph.op(node), Op::Param(_) | Op::Argument(_) | Op::Input(_)) {
            return;
        }
        self.special.insert((region, node), layout.clone());
        let operands = graph.operands(node);
        match graph.op(node) {
            Op::Output(output) => {
                if let Some(Op::Repeat(repeat)) = operands.first().map(|&operand| graph.op(operand)) {
                    let body = self.program.region(repeat.body);
                    self.assign(repeat.body, body.results[output.index], layout);
                    // What is carried lies alike before, between and after layers.
                    if output.index < repeat.carried {
                        let argument = (repeat.body, body.arguments[output.index]);
                        self.special.insert(argument, layout.clone());
                        self.assign(region, graph.operands(operands[0])[output.index], layout);
                    }
                }
            }
            Op::Map(_) | Op::Cast(_) => {
                for operand in operands {
                    let free = !self.special.contains_key(&(region, operand));
                    if free && graph.axes(operand) == graph.axes(node) {
                        self.assign(region, operand, layout);
                    }
                }
            }
            _ => {}
        }
    }

    /// How a value is laid out, without its layer axis.
    pub fn get(&self, region: RegionId, node: NodeId) -> Layout {
        if let Some(special) = self.special.get(&(region, node)) {
            return special.clone();
        }
        let graph = &self.program.region(region).graph;
        match (graph.op(node), self.layouts.dense(graph.ty(node))) {
            (Op::RoundBlocks(_), Layout::Dense { leading, order }) => Layout::Rounded { leading, order },
            (_, dense) => dense,
        }
    }
}
