//! Which values are done at once, and whether one more among them would make
//! things that are done at once need one another in a circle. It knows nothing
//! of why values belong together.

use super::roles::Roles;
use diptych_ir::{NodeId, Op};
use std::collections::{HashMap, HashSet};

/// The values of a region, each in a unit or not placed yet. A value that is
/// not placed counts as a unit of its own, so that what is still to come is known from the start.
pub struct Units {
    /// The values that each value reads: those that are stored or yielded by a repeat.
    reads: HashMap<NodeId, Vec<NodeId>>,
    unit_of: HashMap<NodeId, usize>,
    members: Vec<Vec<NodeId>>,
}

impl Units {
    /// No units yet: `order` is the region's nodes.
    pub fn new(roles: &Roles, order: &[NodeId]) -> Units {
        // What a recurrence starts from may be no value that is computed.
        let known: HashSet<NodeId> = order.iter().copied().collect();
        let of = |&id: &NodeId| {
            let reads = reads(roles, id);
            (id, reads.into_iter().filter(|read| known.contains(read)).collect())
        };
        let reads = order.iter().map(of).collect();
        Units { reads, unit_of: HashMap::new(), members: Vec::new() }
    }

    /// A new unit.
    pub fn add(&mut self) -> usize {
        self.members.push(Vec::new());
        self.members.len() - 1
    }

    /// The values of a unit.
    pub fn members(&self, unit: usize) -> &[NodeId] {
        &self.members[unit]
    }

    /// Puts a value into a unit.
    pub fn join(&mut self, id: NodeId, unit: usize) {
        self.members[unit].push(id);
        self.unit_of.insert(id, unit);
    }

    /// The unit of a value, if it is placed.
    pub fn of(&self, id: NodeId) -> Option<usize> {
        self.unit_of.get(&id).copied()
    }

    /// The units whose values a value reads.
    pub fn inputs(&self, id: NodeId) -> HashSet<usize> {
        self.reads[&id].iter().filter_map(|&read| self.of(read)).collect()
    }

    /// The other units whose values a unit reads.
    pub fn needs(&self, unit: usize) -> HashSet<usize> {
        let inputs = self.members[unit].iter().flat_map(|&id| self.inputs(id));
        inputs.filter(|&input| input != unit).collect()
    }

    /// Puts placed values into a unit.
    pub fn move_to(&mut self, values: &[NodeId], unit: usize) {
        for &id in values {
            if let Some(old) = self.of(id) {
                self.members[old].retain(|&member| member != id);
            }
            self.join(id, unit);
        }
    }

    /// Puts the values of one unit into another, and leaves none in it.
    pub fn merge(&mut self, from: usize, into: usize) {
        for id in std::mem::take(&mut self.members[from]) {
            self.join(id, into);
        }
    }

    /// Whether a value that is not placed can join a unit, with no other unit in between that needs
    /// one of the two and is needed by the other.
    pub fn can_join(&self, id: NodeId, unit: usize) -> bool {
        self.can_be_one(&[&self.members[unit][..], &[id]].concat())
    }

    /// The same of two units.
    pub fn can_merge(&self, one: usize, other: usize) -> bool {
        self.can_be_one(&[&self.members[one][..], &self.members[other]].concat())
    }

    /// Whether values can be done at once, all values of each of their units among them.
    fn can_be_one(&self, values: &[NodeId]) -> bool {
        let own: HashSet<NodeId> = values.iter().copied().collect();
        let within = |node: NodeId| own.contains(&node);
        let outside = values.iter().flat_map(|node| &self.reads[node]);
        let mut stack: Vec<NodeId> = outside.copied().filter(|&node| !within(node)).collect();
        let mut seen = HashSet::new();
        while let Some(node) = stack.pop() {
            if within(node) {
                return false;
            }
            if !seen.insert(node) {
                continue;
            }
            match self.of(node) {
                Some(unit) => {
                    seen.extend(&self.members[unit]);
                    stack.extend(self.members[unit].iter().flat_map(|member| &self.reads[member]));
                }
                None => stack.extend(&self.reads[&node]),
            }
        }
        true
    }
}

/// What a node reads that is stored or yielded by a repeat, through views, free nodes and streamed values.
fn reads(roles: &Roles, id: NodeId) -> Vec<NodeId> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut stack = roles.sources(id);
    while let Some(source) = stack.pop() {
        if !seen.insert(source) {
            continue;
        }
        match roles.graph.op(source) {
            Op::Output(_) => found.push(roles.graph.operands(source)[0]),
            Op::History(_) => stack.extend(roles.sources(source)),
            _ if roles.is_streamed(source) => stack.extend(roles.sources(source)),
            _ if roles.is_given(source) => {}
            _ => found.push(source),
        }
    }
    found
}
