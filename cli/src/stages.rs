//! Where the time of a command goes until its program runs: stages that are
//! measured here or by the libraries, against the clock on the wall.

use crate::config::RunConfig;
use crate::failure::Result;
use crate::format::seconds;
use crate::objective::{Form, ObjectiveConfig};
use diptych_codegen::driver::{CompiledProgram, Rewritten, compile_rewritten};
use diptych_codegen::entry::EntryOptions;
use diptych_codegen::stages::{Stages, note, total};
use diptych_ir::{EntryKind, Program};
use diptych_models::build;
use diptych_passes::algebra::Objective;
use std::fmt::Write;
use std::time::Instant;

/// A clock for all that a command does to compile.
pub struct CompileTime {
    start: Instant,
    last: Instant,
    stages: Stages,
}

impl CompileTime {
    /// The first stage begins.
    pub fn start() -> CompileTime {
        let now = Instant::now();
        CompileTime { start: now, last: now, stages: Stages::new() }
    }

    /// A stage ends, and the next begins.
    pub fn lap(&mut self, name: &str) {
        let now = Instant::now();
        note(&mut self.stages, name, (now - self.last).as_secs_f64());
        self.last = now;
    }

    /// Stages end that a library has measured. What they leave goes to the stage `rest`, or remains unattributed.
    pub fn lap_of(&mut self, stages: &[(String, f64)], rest: Option<&str>) {
        let now = Instant::now();
        let mut left = (now - self.last).as_secs_f64();
        for (name, seconds) in stages {
            note(&mut self.stages, name, *seconds);
            left -= seconds;
        }
        if let Some(rest) = rest {
            note(&mut self.stages, rest, left.max(0.0));
        }
        self.last = now;
    }

    /// What was done since the last stage is none of compilation.
    pub fn skip(&mut self) {
        let now = Instant::now();
        self.start += now - self.last;
        self.last = now;
    }

    /// What was measured until now.
    pub fn taken(self) -> Taken {
        Taken { wall: self.start.elapsed().as_secs_f64(), stages: self.stages }
    }
}

/// A model through the whole compiler.
pub struct Compiled {
    /// The program as the model defines it.
    pub program: Program,
    /// What its form was chosen for.
    pub objective: Objective,
    /// With all forms that were compared, those that would give other bits included.
    pub compared: Rewritten,
    /// In the form that was chosen.
    pub rewritten: Rewritten,
    /// With its entries.
    pub compiled: CompiledProgram,
}

/// How the forms of a program are compared: [`ObjectiveConfig::rewrite`], or [`ObjectiveConfig::compare`].
type Choose = fn(&ObjectiveConfig, &Program, Objective, EntryOptions) -> Result<Rewritten>;

/// Builds a model and compiles entries of it.
///
/// # Errors
/// When the model or its objective does not fit, or a pass refuses it.
pub fn compile_model(
    config: &RunConfig,
    kinds: &[EntryKind],
    options: EntryOptions,
    choose: Choose,
    time: &mut CompileTime,
) -> Result<Compiled> {
    let architecture = &*config.architecture;
    let program = build(architecture)?;
    time.lap("model");
    let train = config.train.options(architecture.context())?;
    let objective = config.objective.objective(architecture.context(), train.batch, train.time)?;
    time.lap("objective");
    let compared = choose(&config.objective, &program, objective.clone(), options)?;
    let rewritten = match config.objective.numerics {
        Form::Same => compared.with_same_bits()?,
        Form::Fast | Form::AsWritten => compared.clone(),
    };
    let compiled = compile_rewritten(&rewritten, kinds, &train.optimizer.into(), options)?;
    time.lap_of(&compiled.stages, None);
    Ok(Compiled { program, objective, compared, rewritten, compiled })
}

/// What compiling took.
pub struct Taken {
    /// Seconds of each stage, in order.
    pub stages: Stages,
    /// Seconds from beginning to end.
    pub wall: f64,
}

impl Taken {
    /// Seconds that no stage has.
    pub fn unattributed(&self) -> f64 {
        self.wall - total(&self.stages)
    }

    /// A line for each stage that takes at least this share of all, one for the others together, for the total, for the
    /// wall clock, and for the difference.
    pub fn text(&self, share: f64) -> String {
        let total = total(&self.stages);
        let told = |stage: &&(String, f64)| stage.1 >= share * total;
        let mut rows: Vec<(String, f64)> = self.stages.iter().filter(told).cloned().collect();
        let others = self.stages.len() - rows.len();
        if others > 0 {
            let rest = self.stages.iter().filter(|stage| !told(stage)).map(|stage| stage.1).sum();
            rows.push((format!("{others} stages of less than {}% each", 100.0 * share), rest));
        }
        let sums = [("total", total), ("wall clock", self.wall), ("unattributed", self.unattributed())];
        rows.extend(sums.map(|(name, seconds)| (name.to_owned(), seconds)));
        let width = rows.iter().map(|row| row.0.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for (name, taken) in rows {
            // A clock that is read twice may tell a little less than the parts between.
            let sign = if taken < 0.0 { "-" } else { "" };
            // Writing to a string does not fail.
            let _ = writeln!(out, "  {name:<width$}  {sign}{}", seconds(taken.abs()));
        }
        out
    }

    /// All in a line: the stages that take most, the rest together.
    pub fn line(&self) -> String {
        let mut largest: Vec<(&str, f64)> = Vec::new();
        for (name, seconds) in &self.stages {
            let group = name.split([',', ':']).next().unwrap_or(name);
            match largest.iter_mut().find(|known| known.0 == group) {
                Some(known) => known.1 += seconds,
                None => largest.push((group, *seconds)),
            }
        }
        largest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let told = largest.len().min(5);
        let rest: f64 = largest[told..].iter().map(|stage| stage.1).sum();
        let mut parts: Vec<String> =
            largest[..told].iter().map(|(name, taken)| format!("{name} {}", seconds(*taken))).collect();
        parts.push(format!("all else {}", seconds(rest)));
        parts.push(format!("unattributed {}", seconds(self.unattributed().max(0.0))));
        format!("compiled in {}: {}", seconds(self.wall), parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::ModelArguments;
    use diptych_models::Registry;
    use toml::Table;

    /// Whoever adds a pass without a stage for it is told here. Both figures are of one run, so that a busy machine
    /// stretches them alike.
    #[test]
    fn stages_add_up_to_the_wall_clock() {
        let mut time = CompileTime::start();
        let model = ModelArguments { model: Some("mla-tiny".to_owned()), config: None, set: Vec::new() };
        let config = RunConfig::read(&Registry::zoo(), &model, &Table::new()).unwrap();
        time.lap("configuration");
        let options = EntryOptions::new(16, 72, 2);
        let kinds: Vec<EntryKind> =
            EntryKind::ALL.into_iter().filter(|kind| *kind != EntryKind::Step).collect();
        compile_model(&config, &kinds, options, ObjectiveConfig::compare, &mut time).unwrap();
        let taken = time.taken();
        let ratio = total(&taken.stages) / taken.wall;
        assert!((0.95..=1.001).contains(&ratio), "{ratio}:\n{}", taken.text(0.0));
        for part in
            ["layers: saturate", "layers: extract", "comparison of forms", "decode: fuse", "train: C text"]
        {
            assert!(taken.stages.iter().any(|stage| stage.0.contains(part)), "{part}:\n{}", taken.text(0.0));
        }
        let text = taken.text(0.0);
        assert!(text.contains("wall clock") && text.contains("unattributed"), "{text}");
        let short = taken.text(1e-3);
        assert!(
            short.lines().count() < text.lines().count() && short.contains("stages of less than 0.1%"),
            "{short}"
        );
    }

    #[test]
    fn what_is_skipped_is_not_counted() {
        let mut time = CompileTime::start();
        time.lap("a");
        std::thread::sleep(std::time::Duration::from_millis(20));
        time.skip();
        std::thread::sleep(std::time::Duration::from_millis(3));
        time.lap_of(&[("b".to_owned(), 0.001)], Some("rest"));
        let taken = time.taken();
        let names: Vec<&str> = taken.stages.iter().map(|stage| stage.0.as_str()).collect();
        assert_eq!(names, ["a", "b", "rest"]);
        assert!(taken.stages[2].1 >= 0.002 && taken.unattributed().abs() < 0.002, "{}", taken.text(0.0));
        assert!(taken.line().contains("rest"), "{}", taken.line());
    }
}
