//! The graph of one region: typed nodes on petgraph, edges numbered by operand
//! position. It knows no pass and no program around it.

use crate::ops::{Argument, Param};
use crate::{Axis, DType, IrError, Op, Result, Span, Symbol, TensorType};
use petgraph::Direction;
use petgraph::stable_graph::StableDiGraph;
use petgraph::visit::EdgeRef;

/// A node's identity within its graph. It stays valid when other nodes go.
pub type NodeId = petgraph::stable_graph::NodeIndex<u32>;

/// One operation and the type of what it yields.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operation.
    pub op: Op,
    /// Type of its value (for `repeat` and `scan`, an empty scalar: see `Op::Output`).
    pub ty: TensorType,
    /// The user's line that asked for it.
    pub span: Option<Span>,
    /// A name for the reader, such as `layers.q`.
    pub label: Option<Symbol>,
}

/// A directed acyclic graph of ops.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: StableDiGraph<Node, u32>,
    axis_order: Vec<Symbol>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Declares the order in which the model names its axes. Sums over several
    /// axes walk them in this order, and layouts are derived from it.
    pub fn declare_axis(&mut self, name: Symbol) {
        if !self.axis_order.contains(&name) {
            self.axis_order.push(name);
        }
    }

    /// The declared axis names, in order.
    pub fn axis_order(&self) -> &[Symbol] {
        &self.axis_order
    }

    /// The axes in walking order: symbolic sizes first, then as declared,
    /// then by name.
    pub fn ordered(&self, axes: impl IntoIterator<Item = Axis>) -> Vec<Axis> {
        let mut sorted: Vec<Axis> = axes.into_iter().collect();
        let rank = |axis: &Axis| {
            let declared = self.axis_order.iter().position(|&name| name == axis.name);
            (axis.fixed_size().is_some(), declared.unwrap_or(usize::MAX), axis.name)
        };
        sorted.sort_by_key(rank);
        sorted
    }

    /// Adds an op, with its type inferred.
    ///
    /// # Errors
    /// When the operands do not fit the op: which op, which axes, what would fit.
    pub fn add(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> Result<NodeId> {
        let op = op.into();
        let types: Vec<&TensorType> = operands.iter().map(|&id| &self.nodes[id].ty).collect();
        let ty = match &op {
            Op::Output(output) => {
                let [operand] = operands else {
                    return Err(IrError::of("output", format!("takes 1 operand, not {}", operands.len())));
                };
                let op = &self.nodes[*operand].op;
                let Some(looped) = op.as_loop() else {
                    let problem = format!("its operand must be a repeat or a scan, not {}", op.name());
                    return Err(IrError::of("output", problem));
                };
                looped.results.get(output.index).cloned().ok_or_else(|| {
                    let (count, name) = (looped.results.len(), looped.name);
                    IrError::of("output", format!("no result {}; the {name} has {count}", output.index))
                })?
            }
            other => other.operator().infer(&types)?,
        };
        for axis in &ty.axes {
            self.declare_axis(axis.name);
        }
        let id = self.nodes.add_node(Node { op, ty, span: None, label: None });
        for (position, &operand) in operands.iter().enumerate() {
            self.nodes.add_edge(operand, id, position as u32);
        }
        Ok(id)
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// Whether there is a node of this id.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes.contains_node(id)
    }

    /// The op of a node.
    pub fn op(&self, id: NodeId) -> &Op {
        &self.nodes[id].op
    }

    /// The type of a node's value.
    pub fn ty(&self, id: NodeId) -> &TensorType {
        &self.nodes[id].ty
    }

    /// The axes of a node's value.
    pub fn axes(&self, id: NodeId) -> &crate::Axes {
        &self.nodes[id].ty.axes
    }

    /// Records where a node comes from, for errors and reports.
    pub fn annotate(&mut self, id: NodeId, span: Option<Span>, label: Option<Symbol>) {
        let node = &mut self.nodes[id];
        node.span = span.or(node.span);
        node.label = label.or(node.label);
    }

    /// The operands of a node, in position order.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        let mut edges: Vec<(u32, NodeId)> = self
            .nodes
            .edges_directed(id, Direction::Incoming)
            .map(|edge| (*edge.weight(), edge.source()))
            .collect();
        edges.sort_unstable();
        edges.into_iter().map(|(_, source)| source).collect()
    }

    /// The nodes that use a node's value, each once, in id order.
    pub fn users(&self, id: NodeId) -> Vec<NodeId> {
        let mut users: Vec<NodeId> = self.nodes.neighbors_directed(id, Direction::Outgoing).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Says of a scan that its last `kept` results are states for replays.
    pub fn set_kept_states(&mut self, id: NodeId, kept: usize) {
        if let Op::Scan(scan) = &mut self.nodes[id].op {
            scan.kept = kept;
        }
    }

    /// Says of a scan how the states that it reads can be had again.
    pub fn set_replay(&mut self, id: NodeId, replay: crate::ops::Replay) {
        if let Op::Scan(scan) = &mut self.nodes[id].op {
            scan.replay = Some(replay);
        }
    }

    /// Says of a parameter or a port that its elements are of this type; nothing happens to any other node. Who reads it
    /// must take it.
    pub fn set_dtype(&mut self, id: NodeId, dtype: DType) {
        let node = &mut self.nodes[id];
        if let Op::Param(Param { ty, .. }) | Op::Argument(Argument { ty, .. }) = &mut node.op {
            ty.dtype = dtype;
            node.ty.dtype = dtype;
        }
    }

    /// Replaces a node's operands. The types must stay what they were.
    ///
    /// # Errors
    /// When the new operands do not give the node the type that it has.
    pub fn set_operands(&mut self, id: NodeId, operands: &[NodeId]) -> Result<()> {
        if !matches!(self.nodes[id].op, Op::Output(_)) {
            let types: Vec<&TensorType> = operands.iter().map(|&operand| &self.nodes[operand].ty).collect();
            let ty = self.nodes[id].op.operator().infer(&types)?;
            if ty != self.nodes[id].ty {
                let problem = format!("new operands give {ty}, but its users expect {}", self.nodes[id].ty);
                return Err(IrError::of(self.nodes[id].op.name(), problem));
            }
        }
        let old: Vec<_> = self.nodes.edges_directed(id, Direction::Incoming).map(|edge| edge.id()).collect();
        for edge in old {
            self.nodes.remove_edge(edge);
        }
        for (position, &operand) in operands.iter().enumerate() {
            self.nodes.add_edge(operand, id, position as u32);
        }
        Ok(())
    }

    /// All nodes, operands before users, in an order that depends on the graph alone.
    pub fn topological_order(&self) -> Vec<NodeId> {
        let mut waiting: std::collections::HashMap<NodeId, usize> = self
            .nodes
            .node_indices()
            .map(|id| (id, self.nodes.edges_directed(id, Direction::Incoming).count()))
            .collect();
        let mut ready: std::collections::BTreeSet<NodeId> =
            waiting.iter().filter(|(_, count)| **count == 0).map(|(&id, _)| id).collect();
        let mut order = Vec::with_capacity(waiting.len());
        while let Some(id) = ready.pop_first() {
            order.push(id);
            for edge in self.nodes.edges_directed(id, Direction::Outgoing) {
                if let Some(count) = waiting.get_mut(&edge.target()) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(edge.target());
                    }
                }
            }
        }
        order
    }

    /// All nodes that these depend on, themselves included, operands first.
    pub fn ancestors(&self, roots: &[NodeId]) -> Vec<NodeId> {
        let mut seen = std::collections::HashSet::new();
        let mut stack: Vec<NodeId> = roots.to_vec();
        while let Some(id) = stack.pop() {
            if seen.insert(id) {
                stack.extend(self.nodes.neighbors_directed(id, Direction::Incoming));
            }
        }
        self.topological_order().into_iter().filter(|id| seen.contains(id)).collect()
    }

    /// Removes every node that none of these depends on. Returns how many went.
    pub fn retain_ancestors(&mut self, roots: &[NodeId]) -> usize {
        let kept: std::collections::HashSet<NodeId> = self.ancestors(roots).into_iter().collect();
        let before = self.nodes.node_count();
        self.nodes.retain_nodes(|_, id| kept.contains(&id));
        before - self.nodes.node_count()
    }

    /// The ids of all nodes, ascending.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.node_indices().collect()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    /// Whether it has no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
