//! Counts of whole entries against formulas worked out by hand.

use super::*;
use diptych_codegen::driver::{CompiledProgram, compile_program, compile_program_plainly};
use diptych_codegen::entry::{CompiledEntry, EntryOptions, PlanStep};
use diptych_codegen::tile::Extent;
use diptych_ir::EntryKind;
use diptych_models::{ModelBuilder, Registry};
use diptych_passes::AdamWOptions;
use serde_json::json;

const OPTIONS: EntryOptions = EntryOptions::new(32, 144, 2);

fn compiled(layers: usize, kinds: &[EntryKind]) -> CompiledProgram {
    let config = json!({
        "vocab": 1000, "context": 512, "layers": layers, "embed": 288, "heads": 6, "key_value_heads": 6,
        "hidden": 768, "tied": true,
    });
    let architecture = Registry::zoo().architecture("llama", &config).unwrap();
    let program = diptych_models::build(&*architecture).unwrap();
    compile_program(&program, kinds, &AdamWOptions::default(), OPTIONS).unwrap()
}

fn works(steps: &[PlanStep], entry: &CompiledEntry, run: &RunSizes) -> Vec<Work> {
    let mut all = Vec::new();
    for step in steps {
        match step {
            PlanStep::Launch(launch) => {
                all.push(launch_work(&entry.programs[launch.kernel], launch, run, entry.panel))
            }
            PlanStep::Together(together) => {
                let work =
                    |launch: &Launch| launch_work(&entry.programs[launch.kernel], launch, run, entry.panel);
                all.extend(together.iter().map(work));
            }
            PlanStep::Repeat { layers, body, .. } => {
                let body = works(body, entry, run);
                (0..*layers).for_each(|_| all.extend(body.iter().cloned()));
            }
            PlanStep::Turns { body, .. } => all.extend(works(body, entry, run)),
            PlanStep::Copy { .. } => {}
        }
    }
    all
}

fn work(entry: &CompiledEntry, run: &RunSizes) -> Work {
    works(&entry.steps, entry, run).into_iter().sum()
}

fn dot_flops(work: &Work) -> f64 {
    work.dots.iter().map(|dot| dot.flops).sum()
}

/// Parameters that take part in a multiply-add for each token.
fn matmul_parameters(layers: usize) -> f64 {
    (layers * (4 * 288 * 288 + 3 * 288 * 768) + 1000 * 288) as f64
}

/// Pairs of positions that whole chunks of attention look at, causally.
fn pairs(sequences: &[Sequence]) -> f64 {
    let of = |sequence: &Sequence| {
        let positions = sequence.origin..sequence.origin + sequence.length;
        let blocks = positions.step_by(64).map(|start| {
            let end = (start + 64).min(sequence.origin + sequence.length);
            (end - start) * end.next_multiple_of(64).min(sequence.origin + sequence.length)
        });
        blocks.sum::<usize>()
    };
    sequences.iter().map(of).sum::<usize>() as f64
}

fn close(found: f64, expected: f64, within: f64) {
    assert!((found / expected - 1.0).abs() <= within, "{found} is not {expected}");
}

#[test]
fn a_forward_pass_has_the_flops_of_the_formula() {
    let compiled = compiled(6, &[EntryKind::Score, EntryKind::Prefill, EntryKind::Decode]);
    let ragged = RunSizes {
        sequences: vec![
            Sequence { origin: 0, length: 200 },
            Sequence { origin: 0, length: 64 },
            Sequence { origin: 0, length: 1 },
        ],
    };
    for run in [RunSizes::equal(4, 0, 256), ragged] {
        let found = dot_flops(&work(&compiled.entries[&EntryKind::Score], &run));
        let attention = 4.0 * 288.0 * 6.0 * pairs(&run.sequences);
        close(found, 2.0 * matmul_parameters(6) * run.rows() as f64 + attention, 0.02);
    }
    // A token at position 300 looks back at all before it; only the last position of a prompt has logits.
    let decode = RunSizes::equal(3, 300, 1);
    let found = dot_flops(&work(&compiled.entries[&EntryKind::Decode], &decode));
    close(found, 3.0 * (2.0 * matmul_parameters(6) + 4.0 * 288.0 * 6.0 * 301.0), 0.02);
    let prefill = RunSizes::equal(2, 128, 100);
    let found = dot_flops(&work(&compiled.entries[&EntryKind::Prefill], &prefill));
    let layers = matmul_parameters(6) - 288e3;
    let attention = 4.0 * 288.0 * 6.0 * pairs(&prefill.sequences);
    close(found, 2.0 * layers * 200.0 + 2.0 * 288e3 * 2.0 + attention, 0.02);
}

#[test]
fn training_is_three_forward_passes_and_what_is_computed_again() {
    let compiled = compiled(6, &[EntryKind::Score, EntryKind::Train]);
    let run = RunSizes::equal(4, 0, 256);
    let forward = dot_flops(&work(&compiled.entries[&EntryKind::Score], &run));
    let train = dot_flops(&work(&compiled.entries[&EntryKind::Train], &run));
    assert!((3.0..4.0).contains(&(train / forward)), "{}", train / forward);
}

#[test]
fn decoding_reads_every_parameter() {
    let compiled = compiled(6, &[EntryKind::Decode]);
    let work = work(&compiled.entries[&EntryKind::Decode], &RunSizes::equal(1, 100, 1));
    let parameters = 4.0 * matmul_parameters(6);
    let cache = 4.0 * 2.0 * 6.0 * 288.0 * 101.0;
    let found = work.footprint_bytes();
    assert!(found >= parameters + cache, "{found} bytes are less than {parameters} and {cache}");
    assert!(found <= 1.2 * (parameters + cache), "{found} bytes for {parameters} and {cache}");
}

#[test]
fn decoding_reads_the_experts_that_are_used() {
    let config = json!({
        "vocab": 256, "context": 512, "layers": 3, "embed": 96, "heads": 4, "key_value_heads": 2,
        "experts": 64, "chosen": 8, "expert_hidden": 64, "tied": true,
    });
    let architecture = Registry::zoo().architecture("moe", &config).unwrap();
    let program = diptych_models::build(&*architecture).unwrap();
    let compiled =
        compile_program(&program, &[EntryKind::Decode], &AdamWOptions::default(), OPTIONS).unwrap();
    let decode = &compiled.entries[&EntryKind::Decode];
    let expert = (3 * 3 * 96 * 64 * 4) as f64;
    let layer = 2 * 96 * 96 + 2 * 96 * 48 + 96 * 64;
    let others = 4.0 * (3 * layer + 256 * 96) as f64;
    let found = work(decode, &RunSizes::equal(1, 50, 1)).footprint_bytes();
    assert!(found >= 8.0 * expert + others, "{found} bytes");
    assert!(found <= 1.1 * (8.0 * expert + others), "{found} bytes for {expert} an expert and {others}");
    // Of many tokens each chooses its own: in the end all experts are read.
    let many = work(decode, &RunSizes::equal(200, 0, 1)).footprint_bytes();
    assert!(many >= 64.0 * expert + others, "{many} bytes, {expert} an expert");
    // The work is that of the chosen, whatever they are.
    let flops = |batch| dot_flops(&work(decode, &RunSizes::equal(batch, 0, 1)));
    close(flops(40), 40.0 * flops(1), 1e-9);
}

#[test]
fn work_is_linear_in_layers_and_in_sequences() {
    let kinds = [EntryKind::Train, EntryKind::Decode, EntryKind::Update];
    let programs = [2, 4, 6].map(|layers| compiled(layers, &kinds));
    for kind in kinds {
        let run =
            if kind == EntryKind::Decode { RunSizes::equal(2, 77, 1) } else { RunSizes::equal(2, 0, 96) };
        let [two, four, six] = programs.each_ref().map(|program| {
            let work = work(&program.entries[&kind], &run);
            [work.flops(), work.footprint_bytes(), work.bytes()]
        });
        for ((two, four), six) in two.into_iter().zip(four).zip(six) {
            close(six - four, four - two, 1e-9);
        }
    }
    let score = compiled(2, &[EntryKind::Score]);
    let flops = |batch| dot_flops(&work(&score.entries[&EntryKind::Score], &RunSizes::equal(batch, 0, 96)));
    close(flops(6), 3.0 * flops(2), 1e-12);
}

#[test]
fn no_operand_moves_less_than_there_is_of_it() {
    let kinds = [EntryKind::Train, EntryKind::Prefill, EntryKind::Decode, EntryKind::Update];
    let program = compiled(2, &kinds);
    for kind in kinds {
        let run = RunSizes::equal(3, if kind == EntryKind::Decode { 65 } else { 0 }, 70);
        for work in works(&program.entries[&kind].steps, &program.entries[&kind], &run) {
            for traffic in &work.traffic {
                assert!(traffic.bytes >= traffic.footprint_bytes && traffic.bytes.is_finite(), "{traffic:?}");
            }
            assert!(work.dots.iter().all(|dot| dot.issued_flops >= dot.flops && dot.flops > 0.0), "{work:?}");
        }
    }
}

/// What a machine that cuts kernels its own way has to do, over a whole entry.
fn whole_flops_and_bytes(steps: &[PlanStep], entry: &CompiledEntry, run: &RunSizes) -> (f64, f64) {
    let of = |launch: &Launch| {
        let whole = whole_work(&entry.programs[launch.kernel], launch, run);
        for each in whole.contractions.iter().filter(|each| !each.streamed) {
            let full = 2.0 * each.batch * each.rows * each.columns * each.depth;
            close(each.flops, full, 1e-9);
        }
        let flops: f64 = whole.contractions.iter().map(|each| each.flops).sum();
        (flops, whole.read_bytes + whole.written_bytes)
    };
    let add = |(a, b): (f64, f64), (c, d): (f64, f64)| (a + c, b + d);
    steps.iter().fold((0.0, 0.0), |sum, step| match step {
        PlanStep::Launch(launch) => add(sum, of(launch)),
        PlanStep::Together(together) => together.iter().map(of).fold(sum, add),
        PlanStep::Repeat { layers, body, .. } => {
            let (flops, bytes) = whole_flops_and_bytes(body, entry, run);
            add(sum, (flops * *layers as f64, bytes * *layers as f64))
        }
        PlanStep::Turns { body, .. } => add(sum, whole_flops_and_bytes(body, entry, run)),
        PlanStep::Copy { .. } => sum,
    })
}

#[test]
fn undivided_work_is_the_formula_and_never_more_than_divided_work() {
    let kinds =
        [EntryKind::Train, EntryKind::Score, EntryKind::Prefill, EntryKind::Decode, EntryKind::Update];
    let compiled = compiled(6, &kinds);
    for (kind, run) in [
        (EntryKind::Score, RunSizes::equal(4, 0, 256)),
        (EntryKind::Decode, RunSizes::equal(3, 300, 1)),
        (EntryKind::Train, RunSizes::equal(2, 0, 128)),
        (EntryKind::Prefill, RunSizes::equal(2, 128, 100)),
        (EntryKind::Update, RunSizes::equal(1, 0, 1)),
    ] {
        let entry = &compiled.entries[&kind];
        let (flops, bytes) = whole_flops_and_bytes(&entry.steps, entry, &run);
        let divided = work(entry, &run);
        assert!(flops <= dot_flops(&divided) * (1.0 + 1e-9), "{kind:?}");
        assert!(bytes <= divided.bytes() * (1.0 + 1e-9), "{kind:?}");
        if kind == EntryKind::Score {
            let attention = 4.0 * 288.0 * 6.0 * pairs(&run.sequences);
            close(flops, 2.0 * matmul_parameters(6) * run.rows() as f64 + attention, 1e-9);
        }
        if kind == EntryKind::Decode {
            let attention = 4.0 * 288.0 * 6.0 * 301.0 * 3.0;
            close(flops, 3.0 * 2.0 * matmul_parameters(6) + attention, 1e-9);
        }
    }
}

#[test]
fn factors_rounded_to_bf16_are_found() {
    let config = json!({
        "vocab": 1000, "context": 512, "layers": 2, "embed": 288, "heads": 6, "key_value_heads": 2,
        "hidden": 768, "tied": true,
    });
    for (dtype, precision) in [("bf16", Precision::Bf16), ("f32", Precision::F32)] {
        let mut config = config.clone();
        config["dtype"] = json!(dtype);
        let program =
            diptych_models::build(&*Registry::zoo().architecture("llama", &config).unwrap()).unwrap();
        let kinds = [EntryKind::Prefill, EntryKind::Train];
        let compiled = compile_program(&program, &kinds, &AdamWOptions::default(), OPTIONS).unwrap();
        for entry in compiled.entries.values() {
            let mut launches = Vec::new();
            each_launch(&entry.steps, &mut launches);
            for launch in launches {
                let whole = whole_work(&entry.programs[launch.kernel], launch, &RunSizes::equal(2, 0, 96));
                for each in whole.contractions {
                    assert_eq!(each.precision, precision, "{}", entry.programs[launch.kernel].name);
                }
            }
        }
    }
}

fn each_launch<'a>(steps: &'a [PlanStep], found: &mut Vec<&'a Launch>) {
    for step in steps {
        match step {
            PlanStep::Launch(launch) => found.push(launch),
            PlanStep::Together(together) => found.extend(together),
            PlanStep::Repeat { body, .. } | PlanStep::Turns { body, .. } => each_launch(body, found),
            PlanStep::Copy { .. } => {}
        }
    }
}

/// A layer whose keys are expanded from a latent of 16 to 24, over all positions that are kept.
fn expanding(window: Option<usize>) -> CompiledProgram {
    let program = ModelBuilder::new("expanding", 4096).finish(|m| {
        let [embed, latent, depth, vocab] = [("embed", 32), ("latent", 16), ("depth", 24), ("vocab", 97)]
            .map(|(name, size)| m.axis(name, size));
        let x = m.embedding("embedding", vocab, embed).take(m.tokens(), vocab);
        let seen = m.linear("down", x, embed, latent).history_window(window).tanh();
        let scores = m.linear("q", x, embed, depth).dot(m.linear("k", seen, latent, depth), depth).causal();
        let scores = window.map_or(scores, |window| scores.window(window));
        m.head("head", scores.softmax(m.past()).dot(seen.sum(latent), m.past()) * x, embed, vocab)
    });
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    compile_program_plainly(&program.unwrap(), &kinds, &AdamWOptions::default(), OPTIONS).unwrap()
}

/// Rows for which the keys are expanded in a run, as far as flops, undivided flops and bytes written tell.
fn expanded_rows(entry: &CompiledEntry, run: &RunSizes) -> [f64; 3] {
    let expands = |launch: &&Launch| {
        let program = &entry.programs[launch.kernel];
        // Attention, too, takes a chunk of positions at a time.
        !program.name.ends_with("_chunks")
            && program.grid.iter().any(|&dim| matches!(program.dims[dim].extent, Extent::Past { .. }))
    };
    let mut launches = Vec::new();
    each_launch(&entry.steps, &mut launches);
    launches.retain(expands);
    let flops: f64 = launches
        .iter()
        .map(|launch| dot_flops(&launch_work(&entry.programs[launch.kernel], launch, run, 32)))
        .sum();
    let whole: Vec<Whole> =
        launches.iter().map(|launch| whole_work(&entry.programs[launch.kernel], launch, run)).collect();
    let whole_flops: f64 = whole.iter().flat_map(|whole| &whole.contractions).map(|each| each.flops).sum();
    let written: f64 = whole.iter().map(|whole| whole.written_bytes).sum();
    // Keys, and one number for the values.
    [flops / (2 * 16 * 24) as f64, whole_flops / (2 * 16 * 24) as f64, written / (4 * (24 + 1)) as f64]
}

#[test]
fn what_is_computed_over_the_past_has_a_row_for_each_position() {
    let compiled = expanding(None);
    let ragged = RunSizes {
        sequences: vec![Sequence { origin: 4095, length: 1 }, Sequence { origin: 70, length: 1 }],
    };
    assert_eq!(expanded_rows(&compiled.entries[&EntryKind::Decode], &ragged), [4167.0; 3]);
    let cut = RunSizes { sequences: vec![Sequence { origin: 100, length: 50 }] };
    assert_eq!(expanded_rows(&compiled.entries[&EntryKind::Prefill], &cut), [150.0; 3]);
    // What a window does not reach is left out, by whole chunks.
    let windowed = expanding(Some(100));
    let seen = (4096 - 3968) as f64 + 71.0;
    assert_eq!(expanded_rows(&windowed.entries[&EntryKind::Decode], &ragged), [seen; 3]);
}
