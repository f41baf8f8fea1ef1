//! Models of the zoo, built and evaluated by the reference evaluator.

use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{DType, EntryKind, Op, Program, Symbol, text};
use diptych_models::{Registry, build, count_parameters, initialize};
use serde_json::json;

fn context(program: &Program, batch: usize, time: usize) -> Context {
    let mut context = Context::default();
    for (name, size) in [("batch", batch), ("time", time), ("past", time)] {
        context.sizes.insert(name.into(), size);
    }
    let ids = |shift: usize| -> Vec<f64> {
        (0..batch * time).map(|position| ((position * 7 + shift * 11) % 23) as f64).collect()
    };
    let axes: [(Symbol, usize); 2] = [("batch".into(), batch), ("time".into(), time)];
    let mut targets = ids(1);
    targets[1] = -1.0;
    let inputs = [
        ("tokens", Value::new(&axes, ids(0)).unwrap()),
        ("targets", Value::new(&axes, targets).unwrap()),
        ("last", Value::new(&axes[..1], (0..batch).map(|row| (time - 1 - row) as f64).collect()).unwrap()),
        ("inverse_tokens", Value::scalar(1.0 / (batch * time - 1) as f64)),
    ];
    context.inputs.extend(inputs.map(|(name, value)| (Symbol::new(name), value)));
    for (&name, info) in &program.params {
        let values = initialize(program, name.as_str(), 5).unwrap();
        let axes: Vec<_> = info.order.iter().map(|axis| (axis.name, axis.fixed_size().unwrap())).collect();
        let value = Value::new(&axes, values.into_iter().map(f64::from).collect()).unwrap();
        context.params.insert(name, value);
    }
    context
}

fn root(program: &Program, kind: EntryKind, name: &str, context: &Context) -> Value {
    let node = program.entry(kind).unwrap().root(name).unwrap();
    evaluate(program, &[node], context).unwrap().remove(0)
}

#[test]
fn entries_of_every_tiny_preset_agree() {
    for family in Registry::zoo().families() {
        let (name, config) = &family.presets[0];
        let program = build(&*(family.parse)(config).unwrap()).unwrap();
        let context = context(&program, 2, 5);
        let loss = root(&program, EntryKind::Train, "loss", &context);
        let scores = root(&program, EntryKind::Score, "log_prob", &context);
        let mean = -scores.data.iter().sum::<f64>() / 9.0;
        assert!((loss.data[0] - mean).abs() < 1e-9, "{name}");
        assert_eq!(scores.data[1], 0.0, "{name}: a target below 0 is passed over");
        let vocab = config["vocab"].as_u64().unwrap() as f64;
        assert!((mean - vocab.ln()).abs() < 0.5, "{name}: a fresh model is near uniform, not {mean}");

        // The last position of a short text is that position of a longer one.
        let last = root(&program, EntryKind::Prefill, "logits", &context);
        let row = &last.data[..last.data.len() / 2];
        let mut longer = context.clone();
        longer.inputs.insert("last".into(), Value::new(&[("batch".into(), 2)], vec![4.0, 4.0]).unwrap());
        let again = root(&program, EntryKind::Decode, "logits", &longer);
        assert_eq!(row, &again.data[..row.len()], "{name}");
        assert_ne!(last.data, again.data, "{name}");
    }
}

/// A preset's program, with some fields changed.
fn program(preset: &str, change: serde_json::Value) -> Program {
    let registry = Registry::zoo();
    let architecture = registry.preset(preset).unwrap();
    let mut config = architecture.describe();
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    build(&*registry.architecture(architecture.name(), &config).unwrap()).unwrap()
}

#[test]
fn bf16_differs_from_f32_by_rounding_alone() {
    for name in ["gpt2-tiny", "llama-tiny", "mla-tiny", "moe-tiny", "hybrid-tiny", "mamba2-tiny"] {
        let [single, half] = ["f32", "bf16"].map(|dtype| program(name, json!({ "dtype": dtype })));
        let context = context(&single, 2, 5);
        let [exact, rounded] =
            [&single, &half].map(|program| root(program, EntryKind::Score, "log_prob", &context));
        let error = exact.data.iter().zip(&rounded.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(0.0 < error && error < 0.01, "{name}: {error}");
        assert!(half.params.values().all(|info| info.ty.dtype == DType::F32), "{name}: masters stay f32");
        for region in &half.regions {
            let graph = &region.graph;
            let kept = graph.ids().into_iter().filter(|&id| matches!(graph.op(id), Op::History(_)));
            let wrong = kept.into_iter().find(|&id| graph.ty(id).dtype != DType::BF16);
            assert_eq!(wrong, None, "{name}: keys and values are kept in bf16");
        }
        let carried = half.regions[1].results.iter().map(|&id| half.regions[1].graph.ty(id).dtype);
        assert_eq!(carried.collect::<Vec<_>>(), [DType::F32], "{name}: the residual stream is f32");
    }
}

#[test]
fn grouped_queries_with_equal_keys_are_multi_head_attention() {
    let [grouped, full] = [2, 4].map(|heads| program("llama-tiny", json!({ "key_value_heads": heads })));
    let mut context = context(&full, 2, 5);
    let expected = |context: &Context| root(&full, EntryKind::Score, "log_prob", context);
    // Query head 2k + g of the full model is group g of key head k.
    let [layers, embed, heads, width] = ["layers", "embed", "kv_head", "head_dim"].map(Symbol::new);
    for name in ["layers.k", "layers.v"] {
        let wide = context.params[&Symbol::new(name)].clone();
        let narrow = Value::build(vec![(embed, 24), (width, 6), (heads, 2), (layers, 2)], |index| {
            wide.at(&index.with(heads, 2 * index.get(heads)))
        });
        assert_eq!(narrow.axes, [(embed, 24), (width, 6), (heads, 2), (layers, 2)]);
        let repeated =
            Value::build(wide.axes.clone(), |index| narrow.at(&index.with(heads, index.get(heads) / 2)));
        context.params.insert(name.into(), repeated);
        context.params.insert(Symbol::new(&format!("{name} narrow")), narrow);
    }
    let wanted = expected(&context);
    let group = Symbol::new("group");
    for name in ["layers.q", "layers.o"] {
        let wide = context.params[&Symbol::new(name)].clone();
        let axes = wide.axes.iter().map(|&(axis, size)| match axis.as_str() {
            "kv_head" | "group" => (axis, 2),
            _ => (axis, size),
        });
        let grouped = Value::build(axes.collect(), |index| {
            let head = 2 * index.get(heads) + index.get(group);
            wide.at(&index.with(heads, head).with(group, 0))
        });
        context.params.insert(name.into(), grouped);
    }
    for name in ["layers.k", "layers.v"] {
        let narrow = context.params.remove(&Symbol::new(&format!("{name} narrow"))).unwrap();
        context.params.insert(name.into(), narrow);
    }
    let found = root(&grouped, EntryKind::Score, "log_prob", &context);
    let error = wanted.data.iter().zip(&found.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error < 1e-12, "{error}");
}

#[test]
fn every_preset_survives_its_text_form() {
    for preset in Registry::zoo().families().flat_map(|family| &family.presets) {
        let program = program(&preset.0, json!({}));
        let text = text::print(&program);
        let parsed = text::parse(&text).unwrap();
        diptych_ir::verify(&parsed).unwrap();
        assert_eq!(text, text::print(&parsed), "{}", preset.0);
    }
}

#[test]
fn the_three_ways_to_attend_have_the_same_size() {
    let sizes = ["bench-multi-head", "bench-grouped-query", "bench-latent"]
        .map(|name| count_parameters(&program(name, json!({}))) as f64);
    let (least, most) =
        (sizes.iter().fold(f64::MAX, |a, &b| a.min(b)), sizes.iter().fold(0.0, |a: f64, &b| a.max(b)));
    assert!(most / least < 1.02, "{sizes:?}");
}

#[test]
fn serving_computes_logits_at_one_position() {
    for preset in Registry::zoo().families().map(|family| &family.presets[0].0) {
        let program = program(preset, json!({}));
        let graph = &program.main().graph;
        let [time, vocab] = ["time", "vocab"].map(Symbol::new);
        let both = |kind| {
            let roots: Vec<_> = program.entry(kind).unwrap().roots.iter().map(|root| root.1).collect();
            let nodes = graph.ancestors(&roots).into_iter();
            nodes.filter(|&id| [time, vocab].iter().all(|&name| graph.axes(id).get(name).is_some())).count()
        };
        assert!(both(EntryKind::Score) > 0, "{preset}");
        assert_eq!(both(EntryKind::Decode), 0, "{preset}");
        // The norm above the stack is computed at that position too.
        let root = program.entry(EntryKind::Prefill).unwrap().root("logits").unwrap();
        let above = graph.ancestors(&[root]).into_iter().filter(|&id| {
            graph.axes(id).get(time).is_some() && matches!(graph.op(id), Op::Reduce(_) | Op::Contract(_))
        });
        assert_eq!(above.count(), 0, "{preset}");
    }
}
