//! Local rewrites that are always good and change no bit.

use diptych_ir::Program;

/// Makes the main region's results the roots and updates of all entries, and
/// removes what none of them depends on.
pub(crate) fn drop_unused_nodes(program: &mut Program) {
    let mut roots: Vec<_> = program
        .entries
        .iter()
        .flat_map(|entry| entry.roots.iter().chain(&entry.updates))
        .map(|root| root.1)
        .collect();
    let mut seen = std::collections::HashSet::new();
    roots.retain(|root| seen.insert(*root));
    program.main_mut().graph.retain_ancestors(&roots);
    program.main_mut().results = roots;
}
