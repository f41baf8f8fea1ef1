//! Models of the zoo, built and evaluated by the reference evaluator.

use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{EntryKind, Program, Symbol};
use diptych_models::{Registry, build, initialize};

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
