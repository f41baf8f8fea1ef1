//! What the compiler decided for a small zoo: the groups of each entry, and the
//! text of one entry's kernels. A refactoring changes nothing here; what changes
//! is to be looked at, and then accepted with `cargo insta review`.

use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::EntryOptions;
use diptych_ir::{Axis, EntryKind, Graph, NodeId, Program, RegionId};
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use diptych_passes::fuse::{
    FuseOptions, Group, GroupKind, RegionSteps, Rows, Step, StreamAxes, StreamAxis, StreamedAxes, fuse,
};
use diptych_passes::normalize::normalize;
use std::collections::HashMap;
use std::fmt::Write;

fn compiled(preset: &str, kinds: &[EntryKind]) -> CompiledProgram {
    let architecture = Registry::zoo().preset(preset).expect("a preset");
    let program = build(&*architecture).expect("a program");
    let options = EntryOptions::new(32, 168, 2);
    compile_program(&program, kinds, &AdamWOptions::default(), options).expect("a compiled program")
}

fn value(graph: &Graph, id: NodeId) -> String {
    let label = graph.node(id).label.map(|label| format!(" {label}")).unwrap_or_default();
    format!("{}{label}: {}", graph.op(id).name(), graph.ty(id))
}

fn axis(axis: StreamAxis) -> String {
    match axis {
        StreamAxis::Fixed(axis) => axis.name.to_string(),
        StreamAxis::Rows(leading) => format!("rows of {leading:?}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn kind(kind: &GroupKind) -> String {
    match kind {
        GroupKind::Stream(StreamAxes { along, across, each }) => {
            let each: Vec<String> = each.iter().map(|axis: &Axis| format!(", each {}", axis.name)).collect();
            format!("stream along {} across {}{}", axis(*along), axis(*across), each.concat())
        }
        other => format!("{other:?}"),
    }
}

/// The steps of a region and of the bodies that it repeats.
fn write_steps(
    text: &mut String,
    program: &Program,
    fused: &HashMap<RegionId, RegionSteps>,
    id: RegionId,
    indent: &str,
) {
    let graph = &program.region(id).graph;
    for step in &fused[&id].steps {
        match step {
            Step::Repeat(node) => {
                let body = graph.op(*node).as_loop().expect("a loop").body;
                let _ = writeln!(text, "{indent}repeat {}", program.region(body).name);
                write_steps(text, program, fused, body, &format!("{indent}    "));
            }
            Step::Group(group) => write_group(text, graph, group, indent),
            Step::Turns(turns) => {
                let _ = writeln!(text, "{indent}in turns");
                for group in &turns.groups {
                    write_group(text, graph, group, &format!("{indent}    "));
                }
            }
        }
    }
}

fn write_group(text: &mut String, graph: &Graph, group: &Group, indent: &str) {
    let _ = writeln!(text, "{indent}{}", kind(&group.kind));
    for &node in &group.nodes {
        let stored = if group.outputs.contains(&node) { "store " } else { "" };
        let _ = writeln!(text, "{indent}  {stored}{}", value(graph, node));
    }
}

fn groups(program: &Program, kind: EntryKind) -> String {
    let streamed = StreamedAxes::of(&normalize(program, false).expect("a normal form")).expect("axes");
    let mut program = program.clone();
    program.entries.retain(|entry| entry.kind == kind);
    let program = normalize(&program, kind.cached()).expect("a normal form");
    let entry = program.entry(kind).expect("an entry");
    let roots: Vec<NodeId> = entry.roots.iter().chain(&entry.updates).map(|root| root.1).collect();
    let rows = if kind.cached() { Rows::Few } else { Rows::Many };
    let options = FuseOptions {
        rows,
        history_is_rename: !kind.cached(),
        operand_elements: usize::MAX,
        fine_columns: false,
    };
    let fused = fuse(&program, &roots, &streamed, options).expect("groups");
    let mut text = String::new();
    write_steps(&mut text, &program, &fused, Program::MAIN, "");
    text
}

#[test]
fn groups_of_the_zoo() {
    // The last has a vocabulary so large that the loss runs in turns.
    for preset in ["llama-tiny", "gpt2-tiny", "mla-tiny", "llama-15m"] {
        let kinds = [EntryKind::Train, EntryKind::Decode];
        let compiled = compiled(preset, &kinds);
        for kind in kinds {
            let name = format!("groups_{}_{}", preset.replace('-', "_"), kind.name());
            insta::assert_snapshot!(name, groups(&compiled.program, kind));
        }
    }
}

#[test]
fn kernels_of_llama_s_decoding() {
    let compiled = compiled("llama-tiny", &[EntryKind::Decode]);
    let kernels = &compiled.entries[&EntryKind::Decode].kernels;
    let texts: Vec<&str> = kernels.iter().map(|kernel| kernel.text.as_str()).collect();
    insta::assert_snapshot!(texts.join("\n"));
}
