//! Times products with weights that are derived from others against the same products with stored ones, in turns:
//! a JSON line for each form, with the least of its times over that of the stored form, when decoding one token and
//! when reading a prompt.
//!
//! `cargo run --release -p diptych-runtime --example derived_speed -- [--embed 1024] [--layers 4] [--prompt 128] [--threads 2] [--rounds 31]`

use diptych_codegen::driver::{compile_program_for, objective};
use diptych_codegen::entry::Limits;
use diptych_ir::{Axis, DType, EntryKind, Initializer, Program};
use diptych_models::{ModelBuilder, Tensor, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Limits as Saturation, Objective};
use diptych_runtime::executor::{Binding, Executable, Sequence};
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

const VOCAB: usize = 64;

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

fn param<'m>(m: &'m ModelBuilder, name: &str, axes: &[Axis]) -> Tensor<'m> {
    m.param(name, axes.to_vec(), Initializer::Normal { standard_deviation: 0.02 }, true)
}

/// How a matrix comes about.
#[derive(Clone, Copy)]
enum Form {
    Stored,
    Scaled,
    Multiplied,
    Adapted,
    Merged,
    Rounded,
    StoredRounded,
    /// One matrix for both products, summed along each of its axes in turn.
    Twice,
}

const FORMS: [(&str, Form, Form); 6] = [
    ("scaled by a vector", Form::Scaled, Form::Stored),
    ("a low-rank product", Form::Multiplied, Form::Stored),
    ("a low-rank product added", Form::Adapted, Form::Stored),
    ("merged of three", Form::Merged, Form::Stored),
    ("stored, used both ways", Form::Twice, Form::Stored),
    ("scaled and rounded to bf16", Form::Rounded, Form::StoredRounded),
];

fn weight<'m>(m: &'m ModelBuilder, form: Form, name: &str, from: Axis, to: Axis) -> Tensor<'m> {
    let rank = m.axis("rank", 16);
    let low_rank = || {
        let [a, b] =
            [param(m, &format!("{name}_a"), &[from, rank]), param(m, &format!("{name}_b"), &[rank, to])];
        m.contract(&[a, b], rank)
    };
    match form {
        Form::Stored | Form::Twice => param(m, name, &[from, to]),
        Form::Scaled => param(m, name, &[from, to]) * param(m, &format!("{name}_scale"), &[from]),
        Form::Multiplied => low_rank(),
        Form::Adapted => param(m, name, &[from, to]) + low_rank() * 0.5,
        Form::Merged => {
            let size = to.fixed_size().unwrap_or(0);
            let pieces = [(0, size / 2), (1, size / 4), (2, size - size / 2 - size / 4)].map(|(at, size)| {
                let piece = m.axis(&format!("{name}_{at}_columns"), size);
                (param(m, &format!("{name}_{at}"), &[from, piece]), piece)
            });
            m.concat(&pieces, to)
        }
        Form::Rounded => weight(m, Form::Scaled, name, from, to).cast(DType::BF16),
        Form::StoredRounded => param(m, name, &[from, to]).cast(DType::BF16),
    }
}

fn program(form: Form, size: usize, layers: usize) -> Program {
    let program = ModelBuilder::new("derived", 1024).finish(|m| {
        let (vocab, embed, hidden) =
            (m.axis("vocab", VOCAB), m.axis("embed", size), m.axis("hidden", 2 * size));
        let x = param(m, "table", &[vocab, embed]).take(m.tokens(), vocab);
        let rounded = matches!(form, Form::Rounded | Form::StoredRounded);
        let x = m.repeat("layers", layers, x, |m, x| {
            let read = if rounded { x.cast(DType::BF16) } else { x };
            let up = weight(m, form, "up", embed, hidden);
            let down = if matches!(form, Form::Twice) { up } else { weight(m, form, "down", hidden, embed) };
            let wide = m.contract(&[read, up], embed).tanh();
            let wide = if rounded { wide.cast(DType::BF16) } else { wide };
            x + m.contract(&[wide, down], hidden)
        });
        m.contract(&[x, param(m, "head", &[embed, vocab])], embed)
    });
    program.unwrap_or_else(|error| panic!("{error}"))
}

/// A program on its way, for runs of so many tokens.
struct Loaded {
    run: Executable,
    binding: Binding,
    _session: Session,
}

fn load(
    device: &Device,
    form: Form,
    size: (usize, usize),
    rows: usize,
) -> Result<Loaded, Box<dyn std::error::Error>> {
    let program = program(form, size.0, size.1);
    // Forms are kept as they are written.
    let as_written = Objective { limits: Saturation { rounds: 0, ..Saturation::default() }, ..objective() };
    let kinds = [EntryKind::Prefill];
    let compiled =
        compile_program_for(&program, &kinds, &AdamWOptions::default(), device.options(), &as_written)?;
    let mut session = Session::load(device, compiled, 1024)?;
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let limits = Limits { rows, batch: 1 };
    let mut run = session.executable(device, EntryKind::Prefill, None, limits)?;
    let mut binding = Binding::new(limits, 1024);
    binding.bind(&[Sequence { origin: 0, length: rows, chunks: &[], state: 0 }])?;
    for (at, token) in run.input::<i32>("tokens").ok_or("no tokens")?[..rows].iter_mut().enumerate() {
        *token = (at * 37 % VOCAB) as i32;
    }
    run.input::<i32>("last").ok_or("no last")?[0] = rows as i32 - 1;
    let start = Instant::now();
    run.refresh(device, &binding)?;
    let derived = run.bound().derived;
    eprintln!("derived {} KiB in {:.2} ms", derived >> 10, start.elapsed().as_secs_f64() * 1e3);
    Ok(Loaded { run, binding, _session: session })
}

/// What else the machine does only adds to times.
fn fastest(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str, default: &str| option(name, default).parse::<usize>();
    let size = (number("--embed", "1024")?, number("--layers", "4")?);
    let (prompt, rounds) = (number("--prompt", "128")?, number("--rounds", "31")?);
    let device = Device::cpu(Some(number("--threads", "2")?))?;
    for (name, form, stored) in FORMS {
        let mut line = serde_json::json!({ "weights": name });
        for (job, rows) in [("decode", 1), ("prefill", prompt)] {
            let mut pair = [load(&device, form, size, rows)?, load(&device, stored, size, rows)?];
            let mut seconds = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (loaded, seconds) in pair.iter_mut().zip(&mut seconds) {
                    let start = Instant::now();
                    loaded.run.run(&device, &loaded.binding)?;
                    seconds.push(start.elapsed().as_secs_f64());
                }
            }
            let [derived, stored] = seconds.map(fastest);
            line[job] = serde_json::json!({ "ms": derived * 1e3, "stored_ms": stored * 1e3, "ratio": derived / stored });
        }
        println!("{line}");
    }
    Ok(())
}
