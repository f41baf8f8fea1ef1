//! What the algebra buys: seconds of a run of training, prefill and decode, predicted and measured, of models as they are
//! written, in the form that is best for the entry alone, and in the forms that are best for all entries
//! together, with the same bits in all of them (`same`) and without (`fast`).
//!
//! `cargo run --release -p diptych-cost --example algebra_gain -- [--models bench-latent,latent-512] [--rounds 7]
//! [--threads 2] [--machine reference-cpu] [--batch 4] [--time 256] [--prompt 256] [--serve-batch 8] [--context 1024]`

mod algebra;

use algebra::{Loaded, MODELS, Model, Outcome, head, in_turns, median, ms, number, objective, option, row};
use diptych_codegen::driver::{CompiledProgram, Rewriting, Rewritten, rewrite};
use diptych_cost::{Machine, Target, predict_binding};
use diptych_passes::algebra::{Binding, Numerics};
use diptych_runtime::session::Device;

fn main() -> Outcome<()> {
    let rounds = number("--rounds", 7)?;
    let device = Device::cpu(Some(number("--threads", 2)?))?;
    let machine = Target::load(&option("--machine", "reference-cpu"))?.into_machine(None)?;
    println!(
        "Milliseconds of a run, predicted / measured (median of {rounds} rounds, all forms in turns).\n"
    );
    head(&[
        "model",
        "entry",
        "algebra off",
        "for this entry alone",
        "joint, same",
        "joint, fast",
        "off / same",
        "off / fast",
    ]);
    for name in option("--models", MODELS).split(',') {
        let start = std::time::Instant::now();
        table(&Model::load(name)?, &device, &machine, rounds)?;
        eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The rows of a model: one an entry, and what a token trained and one served take together.
fn table(model: &Model, device: &Device, machine: &Machine, rounds: usize) -> Outcome<()> {
    let bindings = model.bindings((4, 256), 8, 1024)?;
    let form = |bindings: &[Binding], algebra, numerics| -> Outcome<Loaded> {
        let rewritten = chosen(model, bindings, (algebra, numerics), machine, device)?;
        Loaded::new(device, model, &rewritten, bindings)
    };
    let mut off = form(&bindings, false, Numerics::Same)?;
    let mut same = form(&bindings, true, Numerics::Same)?;
    let mut fast = form(&bindings, true, Numerics::Fast)?;
    let mut totals = [[0.0; 2]; 4];
    for binding in &bindings {
        let mut alone = form(std::slice::from_ref(binding), true, Numerics::Same)?;
        let predicted = [&off, &alone, &same, &fast]
            .map(|form| predict_binding(&form.session.compiled, binding, machine, device.threads()));
        let times =
            in_turns(device, &mut [&mut off, &mut alone, &mut same, &mut fast], binding.entry, rounds);
        let measured: Vec<f64> = times.iter().map(|times| median(times)).collect();
        for ((total, predicted), measured) in totals.iter_mut().zip(predicted).zip(&measured) {
            *total = [total[0] + binding.runs() * predicted, total[1] + binding.runs() * measured];
        }
        let figures: Vec<[f64; 2]> = predicted.into_iter().zip(measured).map(|(p, m)| [p, m]).collect();
        write(&model.name, binding.entry.name(), &figures);
    }
    write(&model.name, "a token trained and one served", &totals);
    Ok(())
}

fn write(model: &str, entry: &str, figures: &[[f64; 2]]) {
    let both = |[predicted, measured]: [f64; 2]| format!("{} / {}", ms(predicted), ms(measured));
    let ratio = |of: [f64; 2]| format!("{:.2} / {:.2}", figures[0][0] / of[0], figures[0][1] / of[1]);
    let mut cells = vec![model.to_owned(), entry.to_owned()];
    cells.extend(figures.iter().map(|&figure| both(figure)));
    cells.extend([ratio(figures[2]), ratio(figures[3])]);
    row(cells);
}

/// The form that is chosen for some bindings, by what they take once they are fused.
fn chosen(
    model: &Model,
    bindings: &[Binding],
    (algebra, numerics): (bool, Numerics),
    machine: &Machine,
    device: &Device,
) -> Outcome<Rewritten> {
    let seconds = |compiled: &CompiledProgram, binding: &Binding| {
        Ok(predict_binding(compiled, binding, machine, device.threads()))
    };
    let objective = objective(bindings.to_vec());
    let rewriting = Rewriting { algebra, objective, numerics, seconds: Some(&seconds) };
    Ok(rewrite(&model.program, &rewriting, device.options())?)
}
