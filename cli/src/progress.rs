//! How far training is: a bar where a person watches, a line now and then where
//! a file does. It measures nothing.

use crate::format::short;
use crate::output::tell;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Lines of a whole run where there is no terminal.
const LINES: u64 = 10;

/// The progress of a run of steps.
pub struct StepProgress {
    bar: Option<ProgressBar>,
    name: String,
    step: u64,
    total: u64,
    /// Running mean of the loss, for the eye.
    loss: Option<f64>,
    tokens_per_second: f64,
}

impl StepProgress {
    /// A run of `total` steps of which `done` are done.
    pub fn new(name: &str, done: u64, total: u64) -> StepProgress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let template = "{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left";
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix(name.to_owned());
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        StepProgress { bar, name: name.to_owned(), step: done, total, loss: None, tokens_per_second: 0.0 }
    }

    /// A step was done.
    pub fn step(&mut self, loss: f64, tokens: u64, seconds: f64) {
        self.step += 1;
        self.loss = Some(self.loss.map_or(loss, |mean| 0.9 * mean + 0.1 * loss));
        let speed = tokens as f64 / seconds.max(1e-9);
        let first = self.tokens_per_second == 0.0;
        self.tokens_per_second = if first { speed } else { 0.9 * self.tokens_per_second + 0.1 * speed };
        let message =
            format!("loss {:.3}  {} tokens/s", self.loss.unwrap_or(loss), short(self.tokens_per_second));
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.step);
                bar.set_message(message);
            }
            None if self.step == 1
                || self.step * LINES / self.total != (self.step - 1) * LINES / self.total =>
            {
                tell(format!("{} {}/{}  {message}", self.name, self.step, self.total));
            }
            None => {}
        }
    }

    /// Says something besides.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => tell(line),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
