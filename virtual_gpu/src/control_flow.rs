//! The blocks of a kernel and the order in which divergent lanes of a warp take turns.
//!
//! Of the parts of a warp that stand at different instructions, the one with the lowest order runs. The order is
//! topological with loops kept together, so a place where paths meet again comes after all of both paths, and lanes
//! wait there for each other, wherever the compiler has put the blocks in the text.

/// How control leaves an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Jump(u32),
    ConditionalJump(u32),
    Exit,
}

pub(crate) struct Graph {
    /// First instruction of each block, ascending, and the number of instructions as the last element.
    pub starts: Vec<u32>,
    pub successors: Vec<Vec<usize>>,
}

impl Graph {
    pub fn of(flows: &[Flow]) -> Self {
        let count = flows.len() as u32;
        let mut starts = vec![0, count];
        for (at, flow) in (0..).zip(flows) {
            if let Flow::Jump(target) | Flow::ConditionalJump(target) = flow {
                starts.push(*target);
            }
            if *flow != Flow::Next {
                starts.push(at + 1);
            }
        }
        starts.sort_unstable();
        starts.dedup();
        let block_at = |instruction: u32| starts.partition_point(|start| *start <= instruction) - 1;
        let successors = starts
            .windows(2)
            .map(|bounds| {
                let next = (bounds[1] < count).then(|| block_at(bounds[1]));
                match &flows[bounds[1] as usize - 1] {
                    Flow::Next => next.into_iter().collect(),
                    Flow::Jump(target) => vec![block_at(*target)],
                    Flow::ConditionalJump(target) => {
                        let mut both: Vec<usize> = next.into_iter().chain([block_at(*target)]).collect();
                        both.dedup();
                        both
                    }
                    Flow::Exit => Vec::new(),
                }
            })
            .collect();
        Graph { starts, successors }
    }

    /// The order of every instruction.
    pub fn instruction_order(&self) -> Vec<u32> {
        let mut arranged = Vec::new();
        self.arrange((0..self.successors.len()).collect(), 0, &mut arranged);
        let mut order = vec![0; *self.starts.last().expect("has the count at least") as usize];
        let mut next = 0;
        for block in arranged {
            for instruction in self.starts[block]..self.starts[block + 1] {
                order[instruction as usize] = next;
                next += 1;
            }
        }
        order
    }

    /// Appends `nodes` in topological order, without the edges that lead to `entry`; loops within are arranged alike.
    fn arrange(&self, nodes: Vec<usize>, entry: usize, arranged: &mut Vec<usize>) {
        let mut components = self.components(&nodes, entry);
        components.reverse();
        for component in components {
            if component.len() == 1 {
                arranged.push(component[0]);
                continue;
            }
            let inside: std::collections::HashSet<usize> = component.iter().copied().collect();
            let mut entered: Vec<usize> = (0..self.successors.len())
                .filter(|block| !inside.contains(block))
                .flat_map(|block| self.successors[block].iter().copied())
                .filter(|target| inside.contains(target))
                .collect();
            entered.sort_unstable();
            let header = entered.first().copied().unwrap_or(component[0]);
            // Without a header of its own (it was taken away already) the component cannot shrink.
            if component.len() == nodes.len() && header == entry {
                arranged.extend(component);
                continue;
            }
            self.arrange(component, header, arranged);
        }
    }

    /// Strongly connected components, each before those that lead to it (Tarjan, with a stack of its own).
    fn components(&self, nodes: &[usize], entry: usize) -> Vec<Vec<usize>> {
        const NEW: usize = usize::MAX;
        let count = self.successors.len();
        let mut inside = vec![false; count];
        nodes.iter().for_each(|node| inside[*node] = true);
        let (mut index, mut low) = (vec![NEW; count], vec![0; count]);
        let mut on_stack = vec![false; count];
        let (mut stack, mut next, mut result) = (Vec::new(), 0, Vec::new());
        let first = std::iter::once(entry).chain(nodes.iter().copied()).filter(|node| inside[*node]);
        for root in first.collect::<Vec<_>>() {
            if index[root] != NEW {
                continue;
            }
            let mut work = vec![(root, 0)];
            while let Some((node, edge)) = work.pop() {
                if edge == 0 {
                    (index[node], low[node]) = (next, next);
                    next += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                let targets = &self.successors[node];
                if let Some(&target) = targets.get(edge) {
                    work.push((node, edge + 1));
                    if !inside[target] || target == entry {
                        continue;
                    }
                    if index[target] == NEW {
                        work.push((target, 0));
                    } else if on_stack[target] {
                        low[node] = low[node].min(index[target]);
                    }
                    continue;
                }
                if let Some((parent, _)) = work.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
                if low[node] == index[node] {
                    let mut component = Vec::new();
                    while let Some(member) = stack.pop() {
                        on_stack[member] = false;
                        component.push(member);
                        if member == node {
                            break;
                        }
                    }
                    component.reverse();
                    result.push(component);
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of the blocks, by their first instructions.
    fn order(flows: &[Flow]) -> Vec<u32> {
        Graph::of(flows).instruction_order()
    }

    #[test]
    fn a_block_at_the_end_comes_before_the_place_that_it_returns_to() {
        // 0: if p goto 3; 1: goto 2 (join); 2: exit; 3: goto 2
        let order = order(&[Flow::ConditionalJump(3), Flow::Next, Flow::Exit, Flow::Jump(2)]);
        assert!(order[3] < order[2]);
    }

    #[test]
    fn all_of_a_loop_comes_before_what_follows_it() {
        // 0; 1: if p goto 4 (exit of the loop stands first in the text); 2: goto 5; 4: exit; 5: body; 6: goto 1
        let order = order(&[
            Flow::Next,
            Flow::ConditionalJump(4),
            Flow::Jump(5),
            Flow::Exit,
            Flow::Exit,
            Flow::ConditionalJump(4),
            Flow::Jump(1),
        ]);
        assert!(order[1] < order[2] && order[2] < order[5] && order[6] < order[4]);
    }

    #[test]
    fn nested_loops_stay_together() {
        // 0; outer 1: inner 2: goto 2 if p; 3: goto 1 if q; 4 exit
        let order =
            order(&[Flow::Next, Flow::Next, Flow::ConditionalJump(2), Flow::ConditionalJump(1), Flow::Exit]);
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }
}
