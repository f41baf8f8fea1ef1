//! The optimiser's step against the evaluator: new parameters and moments, the
//! norm of all gradients, and what fills panels up. It does not say where
//! gradients come from: they are random.

use super::check::{Case, Options, compare};
use super::numbers::Numbers;
use diptych_codegen::entry::Limits;
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{Axis, EntryKind, NodeId, Symbol};
use diptych_passes::AdamWOptions;
use diptych_passes::layout::{Layout, product};
use diptych_runtime::cpu::pool::Pool;
use diptych_runtime::executor::{Binding, CpuExecutable, Kernels, ParameterStore, Sequence, SharedMemory};
use std::collections::BTreeMap;

/// Sizes of gradients, step by step: of about one they are clipped, of these others hardly.
const GRADIENT_SIZES: [f64; 3] = [1.0, 1e-4, 0.3];

/// Whether what fills up the last panels of stored values is zero, as sums over a whole value need it.
///
/// # Errors
/// Which value has something else there.
pub fn padding_is_zero(store: &ParameterStore, panel: usize) -> Result<(), String> {
    for name in store.names() {
        let Some(stored) = store.stored(name) else { continue };
        let Layout::Packed { k, n } = &stored.layout else { continue };
        let (depth, columns) = (product(k), product(n));
        let elements = stored.bytes.as_slice::<f32>();
        for (at, &element) in elements.iter().enumerate() {
            let in_layer = at % stored.layout.row_elements(panel);
            let column = in_layer / (depth * panel) * panel + in_layer % panel;
            if column >= columns && element != 0.0 {
                return Err(format!("{name}: {element} stands beside its columns"));
            }
        }
    }
    Ok(())
}

/// Whether a stored value is a mean or a variance.
fn is_moment(name: Symbol) -> bool {
    name.as_str().starts_with("mean.") || name.as_str().starts_with("variance.")
}

impl Case {
    /// The axes of a parameter, or of the parameter that a state goes with, in the user's order.
    fn order(&self, name: Symbol) -> Vec<Axis> {
        let params = &self.compiled.program.params;
        let owner = name.as_str().split_once('.').map(|(_, owner)| Symbol::new(owner));
        // A parameter's own name may have a point, and another's after it.
        let info = params.get(&name).or_else(|| owner.and_then(|owner| params.get(&owner)));
        info.map(|info| info.order.clone()).unwrap_or_default()
    }

    /// What the evaluator gets for the updates and the norm of the gradients.
    fn expected_update(
        &self,
        stored: &BTreeMap<Symbol, Vec<f64>>,
        inputs: &[(&str, f64)],
    ) -> Result<BTreeMap<Symbol, Vec<f64>>, String> {
        let mut context = Context::default();
        for (name, value) in inputs {
            let value = Value::new(&[], vec![*value]).map_err(|error| error.to_string())?;
            context.inputs.insert((*name).into(), value);
        }
        for (&name, numbers) in stored {
            let axes: Vec<_> = (self.order(name).iter())
                .map(|axis| (axis.name, axis.fixed_size().expect("a fixed axis")))
                .collect();
            let value = Value::new(&axes, numbers.clone()).map_err(|error| error.to_string())?;
            context.params.insert(name, value);
        }
        let program = &self.compiled.program;
        let wanted = super::reference::roots(program, EntryKind::Update);
        let nodes: Vec<NodeId> = wanted.iter().map(|row| row.1).collect();
        let values = evaluate(program, &nodes, &context).map_err(|error| error.to_string())?;
        let in_order = |(row, value): ((Symbol, NodeId), Value)| {
            let order = if stored.contains_key(&row.0) { self.order(row.0) } else { Vec::new() };
            (row.0, value.in_order(&order))
        };
        Ok(wanted.into_iter().zip(values).map(in_order).collect())
    }

    /// A few steps of the optimiser with random gradients.
    pub(super) fn check_update(
        &self,
        store: &mut ParameterStore,
        kernels: &Kernels,
        pool: &Pool,
        options: Options,
    ) -> Result<(), String> {
        let limits = Limits { rows: 1, batch: 1 };
        let entry = &self.compiled.entries[&EntryKind::Update];
        let mut update =
            CpuExecutable::load(entry, kernels, store, SharedMemory::default(), limits, 1, options.width)
                .map_err(|error| error.to_string())?;
        let mut binding = Binding::new(limits, 1);
        let sequence = Sequence { origin: 0, length: 1, chunks: &[], state: 0 };
        binding.bind(&[sequence]).map_err(|error| error.to_string())?;
        let mut numbers = Numbers::new(self.seed, 4);
        let mut stored: BTreeMap<Symbol, Vec<f64>> = BTreeMap::new();
        for name in store.names().collect::<Vec<_>>() {
            let found = store.get(name).map_err(|error| error.to_string())?;
            let found = found.into_iter().map(|x| if is_moment(name) { 0.0 } else { f64::from(x) });
            stored.insert(name, found.collect());
        }
        for (step, size) in (1..).zip(GRADIENT_SIZES) {
            for (&name, values) in &mut stored {
                if name.as_str().starts_with("gradient.") {
                    values.iter_mut().for_each(|x| *x = f64::from((numbers.signed() * size) as f32));
                }
                let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
                store.set(name, &values).map_err(|error| error.to_string())?;
            }
            let AdamWOptions { beta1, beta2, .. } = AdamWOptions::default();
            let correction = |beta: f64| f64::from((1.0 - beta.powi(step)) as f32);
            let inputs = [
                ("learning_rate", f64::from(0.02_f32)),
                ("bias_correction_mean", correction(beta1)),
                ("bias_correction_variance", correction(beta2)),
            ];
            for (name, value) in inputs {
                update.input::<f32>(name).ok_or(format!("no input {name}"))?[0] = value as f32;
            }
            let expected = self.expected_update(&stored, &inputs)?;
            update.refresh(pool, &binding);
            update.run(pool, &binding);
            for (name, wanted) in expected {
                let found = match stored.contains_key(&name) {
                    true => store.get(name).map_err(|error| error.to_string())?,
                    false => update.root(name.as_str()).ok_or("a root is missing")?[..1].to_vec(),
                };
                // Each part has its own scale: a variance is as small as squares of gradients.
                let largest = wanted.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
                let scaled = |x: f64| x / largest;
                let found_scaled: Vec<f32> = found.iter().map(|&x| scaled(f64::from(x)) as f32).collect();
                let wanted_scaled: Vec<f64> = wanted.into_iter().map(scaled).collect();
                compare(
                    &format!("step {step} of the optimiser: {name}"),
                    &found_scaled,
                    &wanted_scaled,
                    2e-4,
                    1.0,
                )?;
                if let Some(values) = stored.get_mut(&name) {
                    *values = found.into_iter().map(f64::from).collect();
                }
            }
            padding_is_zero(store, options.width.panel())?;
        }
        Ok(())
    }
}
