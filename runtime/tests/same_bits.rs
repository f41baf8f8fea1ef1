//! The promise of same bits: a token's log-probability and logits are bit for
//! bit the same from training, scoring, prefill at any split and decode, at any
//! batch size and thread count, for every family of the zoo, in f32 and bf16.

mod in_blocks;
mod naive;
#[path = "support/runner.rs"]
mod runner;

use diptych_codegen::driver::{
    CompiledProgram, compile_program, compile_program_for, compile_program_plainly, compile_rewritten,
    rewrite_by_default,
};
use diptych_codegen::entry::{Buffer, CompileError, EntryOptions, Limits, Role};
use diptych_ir::blocks::BlockFormat;
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::ops::Slice;
use diptych_ir::{Axis, DType, EntryKind, NodeId, ParamInfo, Program, Symbol, UpdateRule, text};
use diptych_models::{Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Class, Objective};
use diptych_passes::caches::CacheFormat;
use diptych_passes::differentiate::gradient_name;
use diptych_passes::narrow_weights::{self, hold_narrow};
use diptych_runtime::cpu::compile::KernelCache;
use diptych_runtime::decode::{ServeOptions, Server, Window};
use diptych_runtime::device::Cpu;
use diptych_runtime::executor::CacheRooms;
use diptych_runtime::session::{Device, Session};
use in_blocks::{held_in, set_random_blocks};
use runner::{Piece, Runner, Texts, assert_same, logits, room, vocabulary, with_probes};
use serde_json::{Value as Json, json};

/// Lengths on both sides of the edges of chunks, of vectors and of blocks of rows.
const LENGTHS: [usize; 7] = [150, 1, 64, 65, 37, 129, 7];
const CONTEXT: usize = 192;
const LIMITS: Limits = Limits { rows: 512, batch: 7 };

fn variants() -> Vec<(&'static str, &'static str, Json)> {
    vec![
        ("gpt2", "gpt2-tiny", json!({})),
        ("llama", "llama-tiny", json!({})),
        (
            "windowed",
            "llama-tiny",
            json!({
                "window": 40, "query_key_norm": true, "query_key_value_bias": true, "head_dim": 10,
                "attention_output_bias": true, "mlp_bias": true, "tied": true,
            }),
        ),
        ("mla", "mla-tiny", json!({})),
        ("moe", "moe-tiny", json!({})),
        ("moe_latent", "moe-latent-tiny", json!({})),
        ("hybrid", "hybrid-tiny", json!({})),
        ("gated_linear", "gated-linear-tiny", json!({})),
        ("mamba2", "mamba2-tiny", json!({})),
        // The logits are streamed, and never stored where only their log-probability is asked for.
        ("large_vocabulary", "llama-tiny", json!({ "vocab": 613 })),
    ]
}

fn program(preset: &str, change: &Json, dtype: &str) -> Program {
    let registry = Registry::zoo();
    let architecture = registry.preset(preset).unwrap();
    let mut config = architecture.describe();
    let fields = config.as_object_mut().unwrap();
    fields.extend(change.as_object().unwrap().clone());
    fields.insert("context".into(), json!(CONTEXT));
    fields.insert("dtype".into(), json!(dtype));
    // Large enough that attention is far from even.
    fields.insert("standard_deviation".into(), json!(0.2));
    build(&*registry.architecture(architecture.name(), &config).unwrap()).unwrap()
}

/// With the algebra or without.
type Compile<'a> =
    &'a dyn Fn(&Program, &[EntryKind], &AdamWOptions, EntryOptions) -> Result<CompiledProgram, CompileError>;

fn session(device: &Device, program: &Program, kinds: &[EntryKind], compile: Compile) -> Session {
    let compiled = compile(program, kinds, &AdamWOptions::default(), device.options())
        .unwrap_or_else(|error| panic!("{}: {error}", program.name));
    let mut session = Session::load(device, compiled, CONTEXT).unwrap_or_else(|error| panic!("{error}"));
    for name in program.params.keys() {
        if program.params[name].blocks.is_none() {
            session.store.set(*name, &initialize(program, name.as_str(), 3).unwrap()).unwrap();
        }
    }
    set_random_blocks(&mut session.store, program, 0.3);
    session
}

/// Seven texts.
fn texts_of(vocab: usize) -> Texts {
    Texts::new(&LENGTHS, vocab)
}

fn empty(width: usize) -> Vec<Vec<u32>> {
    LENGTHS.iter().map(|length| vec![u32::MAX; length * width]).collect()
}

fn whole(texts: &[usize]) -> Vec<Piece> {
    texts.iter().map(|&text| Piece { text, start: 0, length: LENGTHS[text] }).collect()
}

/// Every way in which a text can be run, each against the score of that text alone.
fn all_entries_agree(
    case: &str,
    devices: [&Device; 2],
    program: &Program,
    compile: Compile,
    tolerance: f64,
) -> [Session; 2] {
    // Weights in blocks, or in narrow types, are not trained.
    let trained = !program.params.values().any(ParamInfo::is_for_serving);
    entries_agree(case, devices, program, compile, trained.then_some(tolerance))
}

/// The same, with gradients if there is a tolerance for them.
fn entries_agree(
    case: &str,
    devices: [&Device; 2],
    program: &Program,
    compile: Compile,
    tolerance: Option<f64>,
) -> [Session; 2] {
    use EntryKind::{Decode, Prefill, Score, Train};
    let probes = with_probes(program);
    let trained = tolerance.is_some();
    let kinds = if trained { vec![Train, Score, Prefill, Decode] } else { vec![Score, Prefill, Decode] };
    let served = session(devices[1], program, &kinds, compile);
    let probed = session(devices[1], &probes, &[Prefill, Decode], compile);
    let caches = CacheRooms::new(&probed.compiled.entries[&Decode], room(LENGTHS.len())).unwrap();
    let vocab = vocabulary(program);
    let texts = texts_of(vocab);
    let mut log_probs = empty(1);
    let mut all_logits = empty(vocab);
    let mut score = Runner::new(devices[0], &served, Score, None, LIMITS);
    for text in 0..LENGTHS.len() {
        score.collect(&texts, &whole(&[text]), "log_prob", &mut log_probs);
    }
    let finite = log_probs.iter().flatten().all(|&bits| f32::from_bits(bits) <= 0.0);
    assert!(finite, "{case}: log-probabilities are finite");
    if let Some(tolerance) = tolerance {
        gradients_agree(case, devices[1], &served, &texts, tolerance);
    }
    let mut reference = Runner::new(devices[0], &probed, Prefill, Some(&caches), LIMITS);
    reference.collect(&texts, &whole(&[0, 1, 2, 3, 4, 5, 6]), "all_logits", &mut all_logits);

    for (threads, device) in devices.into_iter().enumerate() {
        let case = |what: &str| format!("{case}, {} threads, {what}", threads + 1);
        for kind in kinds.iter().copied().filter(|kind| !kind.cached()) {
            let mut runner = Runner::new(device, &served, kind, None, LIMITS);
            for batch in [vec![6, 5, 4, 3, 2, 1, 0], vec![1, 4], vec![0, 3, 2]] {
                let mut found = log_probs.clone();
                batch.iter().for_each(|&text| found[text].fill(u32::MAX));
                runner.collect(&texts, &whole(&batch), "log_prob", &mut found);
                assert_same(&case(&format!("{} of {batch:?}", kind.name())), 1, &log_probs, &found);
            }
        }
        let mut prefill = Runner::new(device, &probed, Prefill, Some(&caches), LIMITS);
        for step in [192, 64, 50, 13] {
            let (mut found, mut found_logits) = (empty(1), empty(vocab));
            for start in (0..CONTEXT).step_by(step) {
                let rest = (0..7).filter(|&text| LENGTHS[text] > start);
                let pieces: Vec<Piece> =
                    rest.map(|text| Piece { text, start, length: step.min(LENGTHS[text] - start) }).collect();
                if !pieces.is_empty() {
                    prefill.collect(&texts, &pieces, "log_prob", &mut found);
                    prefill.take(&pieces, "all_logits", &mut found_logits);
                }
            }
            assert_same(&case(&format!("prefill in pieces of {step}")), 1, &log_probs, &found);
            assert_same(
                &case(&format!("logits of prefill in pieces of {step}")),
                vocab,
                &all_logits,
                &found_logits,
            );
        }
        let mut decode = Runner::new(device, &probed, Decode, Some(&caches), LIMITS);
        let (mut found, mut found_logits) = (empty(1), empty(vocab));
        for start in 0..LENGTHS[0] {
            let pieces: Vec<Piece> = (0..7)
                .filter(|&text| LENGTHS[text] > start)
                .map(|text| Piece { text, start, length: 1 })
                .collect();
            decode.collect(&texts, &pieces, "log_prob", &mut found);
            decode.take(&pieces, "all_logits", &mut found_logits);
        }
        assert_same(&case("decode"), 1, &log_probs, &found);
        assert_same(&case("logits of decode"), vocab, &all_logits, &found_logits);
        serving_agrees(&case("serving"), device, &served, &texts, (&log_probs, &all_logits));
    }
    [served, probed]
}

/// What the evaluator needs to know of a text, and the parameters of a session.
fn context_of(session: &Session, texts: &Texts, text: usize) -> Context {
    let mut context = Context::default();
    for (name, size) in [("batch", 1), ("time", LENGTHS[text]), ("past", LENGTHS[text])] {
        context.sizes.insert(name.into(), size);
    }
    let axes: [(Symbol, usize); 2] = [("batch".into(), 1), ("time".into(), LENGTHS[text])];
    for (name, ids) in [("tokens", &texts.tokens[text]), ("targets", &texts.targets[text])] {
        let ids = ids.iter().map(|&id| f64::from(id)).collect();
        context.inputs.insert(name.into(), Value::new(&axes, ids).unwrap());
    }
    context.inputs.insert("inverse_tokens".into(), Value::scalar(f64::from(0.01_f32)));
    for (&name, info) in &session.compiled.program.params {
        let values = session.store.get(name).unwrap().into_iter().map(f64::from).collect();
        let axes: Vec<_> = info.order.iter().map(|axis| (axis.name, axis.fixed_size().unwrap())).collect();
        context.params.insert(name, Value::new(&axes, values).unwrap());
    }
    context
}

/// What the evaluator finds for a node and a text.
fn evaluated(program: &Program, node: NodeId, session: &Session, text: usize) -> Value {
    let vocab = vocabulary(program);
    let context = context_of(session, &texts_of(vocab), text);
    evaluate(program, &[node], &context).unwrap().remove(0)
}

/// The gradients of a short text against the reference evaluator's, with the same roundings.
fn gradients_agree(case: &str, device: &Device, session: &Session, texts: &Texts, tolerance: f64) {
    let text = 6;
    Runner::new(device, session, EntryKind::Train, None, LIMITS).run(texts, &whole(&[text]));
    let program = &session.compiled.program;
    let context = context_of(session, texts, text);
    let updates = &program.entry(EntryKind::Train).unwrap().updates;
    let norm = |numbers: &[f64]| numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
    let found: Vec<(Symbol, f64, f64)> = (program.params.iter())
        .map(|(&param, info)| {
            let wanted = updates.iter().find(|update| update.0 == gradient_name(param)).unwrap().1;
            let wanted = evaluate(program, &[wanted], &context).unwrap().remove(0).in_order(&info.order);
            let ours = session.store.get(gradient_name(param)).unwrap();
            let error: Vec<f64> = ours.iter().zip(&wanted).map(|(&a, b)| f64::from(a) - b).collect();
            (param, norm(&error), norm(&wanted))
        })
        .collect();
    // Some gradients are zero but for the rounding of what they sum, as that of a bias of all keys, and are held to that
    // alone. One that only has a sign, as the excess of an expert's load, is of another size.
    let descends = |param: &Symbol| matches!(program.params[param].update, UpdateRule::AdamW { .. });
    let sizes: Vec<f64> = found.iter().filter(|entry| descends(&entry.0)).map(|entry| entry.2).collect();
    let total = norm(&sizes);
    let rounding = 5e-3 * tolerance * total;
    for (param, error, norm) in found {
        let least = if norm < rounding { rounding } else { 1e-6 * total };
        assert!(
            error <= tolerance * norm + least,
            "{case}: the gradient of {param} is off by {error:e}, its norm is {norm:e}, that of all {total:e}"
        );
    }
}

/// The server, whose entries have the logits of last tokens only: prompts in
/// pieces, then token by token, beside other sequences.
fn serving_agrees(
    case: &str,
    device: &Device,
    session: &Session,
    texts: &Texts,
    (log_probs, all_logits): (&[Vec<u32>], &[Vec<u32>]),
) {
    let options = ServeOptions { rows: 60, batch: 7, sequences: 7, cache_positions: 16 * 64 };
    let mut server = Server::new(device, session, options).unwrap();
    let vocab = server.vocabulary();
    let same = |what: &str, text: usize, position: usize, found: &[f32]| {
        let expected = &all_logits[text][position * vocab..(position + 1) * vocab];
        let found: Vec<u32> = found.iter().map(|x| x.to_bits()).collect();
        assert!(found == expected, "{case}: {what}: the logits of text {text} differ at position {position}");
    };
    let ids: Vec<_> = (0..7).map(|_| server.start().unwrap()).collect();
    let prompts: Vec<_> =
        (0..7).map(|text| (ids[text], &texts.tokens[text][..LENGTHS[text].div_ceil(2)])).collect();
    for (text, found) in server.prefill(&prompts).unwrap().chunks_exact(vocab).enumerate() {
        same("prompt", text, prompts[text].1.len() - 1, found);
    }
    for step in 0.. {
        let next: Vec<(usize, usize)> = (0..7)
            .map(|text| (text, prompts[text].1.len() + step))
            .filter(|&(text, position)| position < LENGTHS[text])
            .collect();
        if next.is_empty() {
            break;
        }
        let tokens: Vec<_> = next.iter().map(|&(text, at)| (ids[text], texts.tokens[text][at])).collect();
        for (&(text, position), found) in next.iter().zip(server.decode(&tokens).unwrap().chunks_exact(vocab))
        {
            same("token", text, position, found);
        }
    }
    let windows: Vec<Window> =
        texts.tokens.iter().zip(&texts.targets).map(|(tokens, targets)| Window { tokens, targets }).collect();
    let mut found = Vec::new();
    server.score(&windows, &mut found).unwrap();
    let found: Vec<u32> = found.iter().map(|x| x.to_bits()).collect();
    assert_eq!(found, log_probs.concat(), "{case}: scores");
    ids.into_iter().for_each(|id| server.release(id));
    assert_eq!(server.free_positions(), 16 * 64, "{case}: all chunks came back");
}

fn every_family_agrees(dtype: &str, tolerance: f64) {
    let devices = [1, 2].map(|threads| Device::cpu(Some(threads)).unwrap());
    for (name, preset, change) in variants() {
        let program = program(preset, &change, dtype);
        let case = format!("{name} {dtype}");
        all_entries_agree(&case, [&devices[0], &devices[1]], &program, &compile_program, tolerance);
    }
}

/// Weights in every format of blocks, the vocabulary's logits stored and streamed.
#[test]
fn weights_in_blocks_give_the_same_bits() {
    let devices = [1, 2].map(|threads| Device::cpu(Some(threads)).unwrap());
    for format in BlockFormat::ALL {
        // Blocks of 256 are of all that is summed, and where it is no multiple a weight stays f32.
        let width = format.elements().max(96);
        let sizes = json!({
            "embed": width, "heads": 4, "key_value_heads": 2, "head_dim": width / 4, "hidden": 2 * width + 8,
        });
        for more in [json!({ "tied": true }), json!({ "tied": false, "vocab": 8 * width + 5 })] {
            let mut change = sizes.clone();
            change.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let program = held_in(&program("llama-tiny", &change, "f32"), format);
            let case = format!("{format} {more}");
            all_entries_agree(&case, [&devices[0], &devices[1]], &program, &compile_program, 0.0);
        }
    }
}

/// The program with every matrix that can be held in this type.
fn narrowed(program: &Program, dtype: DType) -> Program {
    let types = narrow_weights::candidates(program).into_iter().filter(|(_, held)| held.is_ok());
    hold_narrow(program, &types.map(|(name, _)| (name, dtype)).collect()).unwrap()
}

/// Weights in f16 and bf16: of all entries the same bits, which are those of a model in f32 that has these numbers.
#[test]
fn narrow_weights_give_the_bits_of_the_same_numbers_in_f32() {
    let devices = [1, 2].map(|threads| Device::cpu(Some(threads)).unwrap());
    let texts = |session: &Session, vocab: usize| {
        let mut found = empty(1);
        let mut score = Runner::new(&devices[0], session, EntryKind::Score, None, LIMITS);
        score.collect(&texts_of(vocab), &whole(&[0, 1, 2, 3, 4, 5, 6]), "log_prob", &mut found);
        found
    };
    for (at, (name, preset, change)) in variants().into_iter().enumerate() {
        let dtype = if at % 2 == 0 { DType::F16 } else { DType::BF16 };
        let whole = program(preset, &change, "f32");
        let narrow = narrowed(&whole, dtype);
        let case = format!("{name} {dtype}");
        let sessions = all_entries_agree(&case, [&devices[0], &devices[1]], &narrow, &compile_program, 0.0);
        let compiled = compile_program_plainly(
            &whole,
            &[EntryKind::Score],
            &AdamWOptions::default(),
            devices[0].options(),
        );
        let mut wide = Session::load(&devices[0], compiled.unwrap(), CONTEXT).unwrap();
        let mut rounded = 0;
        for name in whole.params.keys() {
            let held = sessions[0].store.get(*name).unwrap();
            rounded += usize::from(held != initialize(&whole, name.as_str(), 3).unwrap());
            wide.store.set(*name, &held).unwrap();
        }
        assert!(rounded > 2, "{case}: only {rounded} parameters were rounded");
        assert!(sessions[0].store.bytes() < wide.store.bytes() * 2 / 3, "{case}: takes half the bytes");
        let vocab = vocabulary(&whole);
        assert_same(&case, 1, &texts(&wide, vocab), &texts(&sessions[0], vocab));
    }
}

/// Caches in every format, in the forms that the algebra takes.
#[test]
fn caches_in_fewer_bytes_give_the_same_bits() {
    let devices = [1, 2].map(|threads| Device::cpu(Some(threads)).unwrap());
    for (at, (name, preset, change)) in variants().into_iter().enumerate() {
        for (number, format) in CacheFormat::ALL.into_iter().enumerate() {
            // All formats of what has most ways to read caches, and one of each other family.
            if !["windowed", "mla"].contains(&name) && number != at % 3 {
                continue;
            }
            let compile = |program: &Program, kinds: &[EntryKind], optimizer: &AdamWOptions, options| {
                let rewritten = rewrite_by_default(program, options)?.with_caches(Some(format));
                compile_rewritten(&rewritten, kinds, optimizer, options)
            };
            let program = program(preset, &change, if at == 1 { "bf16" } else { "f32" });
            let case = format!("{name}, caches in {}", format.name());
            let sessions = entries_agree(&case, [&devices[0], &devices[1]], &program, &compile, None);
            let entry = &sessions[1].compiled.entries[&EntryKind::Decode];
            let caches = |dtype: DType| {
                let of =
                    |buffer: &&Buffer| matches!(buffer.role, Role::Cache { .. }) && buffer.dtype == dtype;
                entry.buffers.iter().filter(of).count()
            };
            let wanted = match format {
                CacheFormat::F16 => caches(DType::F16),
                CacheFormat::BF16 => caches(DType::BF16),
                CacheFormat::Q8 => 2 * caches(DType::I8),
            };
            let all = DType::ALL.into_iter().map(caches).sum::<usize>();
            if at != 1 {
                let [kept, written] = [&sessions[0].compiled.program, &program].map(|program| {
                    let score = program.entry(EntryKind::Score).unwrap();
                    let root = score.root("log_prob").unwrap();
                    evaluated(program, root, &sessions[0], 6).data
                });
                let mut found = empty(1);
                let mut score = Runner::new(&devices[0], &sessions[0], EntryKind::Score, None, LIMITS);
                let texts = texts_of(vocabulary(&program));
                score.collect(&texts, &whole(&[6]), "log_prob", &mut found);
                let found: Vec<f64> = found[6].iter().map(|&bits| f64::from(f32::from_bits(bits))).collect();
                let largest = |wanted: &[f64]| {
                    found.iter().zip(wanted).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()))
                };
                // A rounding may fall the other way in f64; without it, all of them are missing.
                let (near, far) = (largest(&kept), largest(&written));
                assert!(near < 0.02, "{case}: {near} from the evaluator's");
                assert!(
                    wanted == 0 || far > 1e-6 && near < far,
                    "{case}: {near}, and {far} without rounding"
                );
            }
            assert_eq!(wanted, all, "{case}");
            assert!(wanted > 0 || name == "mamba2", "{case}: nothing is cached");
        }
    }
}

/// What is computed for all positions so far at every step, in all entries alike.
fn naive_forms_agree(dtype: DType, tolerance: f64) {
    let devices = [1, 2].map(|threads| Device::cpu(Some(threads)).unwrap());
    for (name, program) in [
        ("latent", naive::latent(dtype, None)),
        ("windowed latent", naive::latent(dtype, Some(40))),
        ("everything", naive::everything(dtype)),
    ] {
        let case = format!("{name} {}", dtype.name());
        let devices = [&devices[0], &devices[1]];
        let sessions = all_entries_agree(&case, devices, &program, &compile_program_plainly, tolerance);
        for session in &sessions {
            for kind in [EntryKind::Prefill, EntryKind::Decode] {
                let entry = &session.compiled.entries[&kind];
                let computed =
                    |buffer: &&Buffer| buffer.role == Role::Temporary && entry.lies_along_cache(buffer);
                assert!(entry.buffers.iter().any(|buffer| computed(&buffer)), "{case}: {}", kind.name());
            }
        }
    }
}

#[test]
fn what_is_computed_over_the_past_has_the_same_bits_in_f32() {
    naive_forms_agree(DType::F32, 1e-4);
}

#[test]
fn what_is_computed_over_the_past_has_the_same_bits_in_bf16() {
    naive_forms_agree(DType::BF16, 2e-2);
}

#[test]
fn every_entry_gives_the_same_bits_in_f32() {
    every_family_agrees("f32", 1e-4);
}

#[test]
fn every_entry_gives_the_same_bits_in_bf16() {
    every_family_agrees("bf16", 2e-2);
}

/// What is compiled for much training, or for much serving, takes another form: it keeps the promise, too.
#[test]
fn forms_for_other_objectives_give_the_same_bits() {
    let devices = [1, 2].map(|threads| Device::cpu(Some(threads)).unwrap());
    let mut decoded: Vec<String> = Vec::new();
    for (preset, dtype, class, served, tolerance) in [
        ("mla-tiny", "f32", Class::Real, 0.0, 1e-4),
        ("mla-tiny", "f32", Class::Real, 1e4, 1e-4),
        ("mla-tiny", "bf16", Class::Real, 1e4, 2e-2),
        ("mla-tiny", "bf16", Class::Approximate, 1e4, 2e-2),
        ("moe-latent-tiny", "f32", Class::Real, 0.0, 1e-4),
        ("moe-latent-tiny", "f32", Class::Real, 1e4, 1e-4),
    ] {
        let objective = Objective { class, ..Objective::typical(200e9, 25e9, 1.0, served) };
        let compile = |program: &Program, kinds: &[EntryKind], optimizer: &AdamWOptions, options| {
            compile_program_for(program, kinds, optimizer, options, &objective)
        };
        let case = format!("{preset} {dtype}, {class:?}, {served} served");
        let program = program(preset, &json!({}), dtype);
        let sessions = all_entries_agree(&case, [&devices[0], &devices[1]], &program, &compile, tolerance);
        decoded.push(text::print(sessions[0].compiled.program_of(EntryKind::Decode)));
    }
    let different = decoded.chunks(2).all(|pair| pair[0] != pair[1]);
    assert!(different, "two objectives have the same form");
}

/// Seen in part, the logits must be stored: then in every entry, or their sum would be one of other blocks.
#[test]
fn a_root_of_one_entry_changes_no_other_s_bits() {
    let mut program = program("llama-tiny", &json!({ "vocab": 613 }), "f32");
    let logits = logits(&program);
    let graph = &mut program.main_mut().graph;
    let vocab = graph.axes(logits).iter().copied().find(|axis| axis.fixed_size() == Some(613)).unwrap();
    let slice = Slice { axis: vocab, start: 7, into: Axis::fixed("some", 5) };
    let some = graph.add(slice, &[logits]).unwrap();
    program.main_mut().results.push(some);
    let score = program.entries.iter_mut().find(|entry| entry.kind == EntryKind::Score).unwrap();
    score.roots.push((Symbol::new("some_logits"), some));
    let device = Device::cpu(Some(1)).unwrap();
    let session = session(&device, &program, &[EntryKind::Train, EntryKind::Score], &compile_program);
    let texts = texts_of(613);
    let [train, score] = [EntryKind::Train, EntryKind::Score].map(|kind| {
        let mut found = empty(1);
        let mut runner = Runner::new(&device, &session, kind, None, LIMITS);
        runner.collect(&texts, &whole(&[0, 1, 2, 3, 4, 5, 6]), "log_prob", &mut found);
        found
    });
    assert_same("a root of `score`", 1, &score, &train);
}

#[test]
fn an_empty_kernel_cache_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let program = program("gpt2-tiny", &json!({}), "bf16");
    let texts = texts_of(97);
    let [warm, cold] = [KernelCache::standard(), KernelCache::at(folder.path())].map(|cache| {
        let device = Device::Cpu(Cpu { cache, ..Cpu::new(Some(2)).unwrap() });
        let session = session(&device, &program, &[EntryKind::Score], &compile_program);
        let mut found = empty(1);
        let mut score = Runner::new(&device, &session, EntryKind::Score, None, LIMITS);
        score.collect(&texts, &whole(&[0, 1, 2, 3, 4, 5, 6]), "log_prob", &mut found);
        found
    });
    assert_same("an empty kernel cache", 1, &warm, &cold);
}
