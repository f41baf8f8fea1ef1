//! The plots of the page, as SVG, on logarithmic axes. Colours go by model, as everywhere. It computes nothing.

use super::findings::{Findings, Kernel, OnTarget, Point, TargetFacts};
use crate::format::{short, thousands};
use crate::plots::{INK, color, extent, legend, line_in_legend, mesh, point_in_legend, svg};
use diptych_cost::JobKind;
use plotters::prelude::*;
use std::ops::Range;

/// Kernels shown of each model and job: the longest.
const KERNELS_SHOWN: usize = 12;

/// Along which axis of the grid a plot goes; the other is held at its middle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// Tokens of a sequence.
    Context,
    /// Sequences at once.
    Batch,
}

/// What a plot shows of one model.
struct Line<'a> {
    at: usize,
    title: &'a str,
    points: Vec<(f64, f64)>,
}

/// What a million tokens of a job take, a line for each model. `None` where no model has two points.
///
/// # Errors
/// When it cannot be drawn.
pub fn cost(
    findings: &Findings,
    target: usize,
    job: JobKind,
    along: Along,
) -> Result<Option<String>, String> {
    let (batch, context) = findings.grid.middle();
    let chosen = |point: &&Point| {
        point.job == job
            && match along {
                Along::Context => point.batch == batch,
                Along::Batch => point.context == context,
            }
    };
    let line = |on: &OnTarget| -> Vec<(f64, f64)> {
        let at = |point: &Point| match along {
            Along::Context => point.context as f64,
            Along::Batch => point.batch as f64,
        };
        let amount =
            |point: &Point| point.price_per_million_tokens.unwrap_or(point.seconds_per_million_tokens);
        on.points.iter().filter(chosen).map(|point| (at(point), amount(point))).collect()
    };
    let models = findings.models.iter().enumerate();
    let lines: Vec<Line<'_>> =
        models.map(|(at, model)| Line { at, title: &model.title, points: line(&model.on[target]) }).collect();
    if lines.iter().all(|line| line.points.len() < 2) {
        return Ok(None);
    }
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = range(points().map(|point| point.0.log2()), 0.2, 0.2);
    let y = range(points().map(|point| point.1.log10()), 0.15, 0.25);
    // Room above the highest point for the legend.
    let room = 0.14 * lines.len() as f64;
    let y = y.start..y.end + room * (y.end - y.start);
    let unit = findings.targets[target].currency.as_deref().unwrap_or("seconds");
    let held = match along {
        Along::Context => format!("context, tokens (batch {batch})"),
        Along::Batch => format!("batch, sequences (context {})", thousands(context as u64)),
    };
    let drawn = svg(820, 320, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(x, y)?;
        mesh(&mut chart)
            .x_desc(held)
            .y_desc(format!("{}, {unit} per million tokens", job.name()))
            .x_label_formatter(&|x| thousands(x.exp2().round() as u64))
            .y_label_formatter(&|y| short(10f64.powf(*y)))
            .y_labels(6)
            .draw()?;
        for Line { at, title, points } in &lines {
            let at = *at;
            let line = points.iter().map(|point| (point.0.log2(), point.1.log10()));
            chart.draw_series(LineSeries::new(line.clone(), color(at).stroke_width(2)))?;
            chart
                .draw_series(line.map(|point| Circle::new(point, 4, color(at).filled())))?
                .label(*title)
                .legend(line_in_legend(color(at)));
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft, 0.8)
    })?;
    Ok(Some(drawn))
}

/// The bounds of some logarithms, each moved out by so much.
fn range(numbers: impl Iterator<Item = f64>, below: f64, above: f64) -> Range<f64> {
    extent(numbers).map_or(0.0..1.0, |(low, high)| low - below..high + above)
}

/// The machine's roof and the longest kernels of a job under it, those of each model in its colour; a larger
/// circle is a larger share of the model's time.
///
/// # Errors
/// When it cannot be drawn.
pub fn roofline(findings: &Findings, target: usize, job: JobKind) -> Result<String, String> {
    let facts = &findings.targets[target];
    let of_model = |on: &OnTarget| -> Vec<(f64, f64, f64)> {
        let kernels: Vec<&Kernel> = on.kernels.iter().filter(|kernel| kernel.job == job).collect();
        let all: f64 = kernels.iter().map(|kernel| kernel.seconds).sum();
        let shown = kernels.into_iter().filter(|kernel| kernel.flops > 0.0 && kernel.bytes > 0.0);
        shown
            .take(KERNELS_SHOWN)
            .map(|kernel| (kernel.flops / kernel.bytes, kernel.flops / kernel.seconds, kernel.seconds / all))
            .collect()
    };
    let models: Vec<Vec<(f64, f64, f64)>> =
        findings.models.iter().map(|model| of_model(&model.on[target])).collect();
    let all = || models.iter().flatten();
    let peak = facts.peak_flops_per_second;
    let knee = peak / facts.memory_bytes_per_second;
    let x = range(all().map(|point| point.0).chain([knee]).map(f64::log10), 0.3, 0.6);
    let y = range(all().map(|point| point.1).chain([peak]).map(f64::log10), 0.3, 0.3);
    let roof = roof(facts, x.start, x.end);
    svg(820, 360, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(x, y)?;
        mesh(&mut chart)
            .x_desc(format!("{}: operations per byte", job.name()))
            .y_desc("operations/s")
            .x_label_formatter(&|x| short(10f64.powf(*x)))
            .y_label_formatter(&|y| rate(10f64.powf(*y)))
            .y_labels(6)
            .draw()?;
        chart.draw_series(LineSeries::new(roof, INK.stroke_width(2)))?;
        for (at, points) in models.iter().enumerate() {
            let circle = |&(x, y, share): &(f64, f64, f64)| {
                let radius = (3.0 + 14.0 * share.sqrt()).round() as i32;
                Circle::new((x.log10(), y.log10()), radius, color(at).mix(0.55).filled())
            };
            chart
                .draw_series(points.iter().map(circle))?
                .label(findings.models[at].title.as_str())
                .legend(point_in_legend(color(at)));
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight, 0.8)
    })
}

/// The logarithm of the most operations a second, at that of operations a byte.
fn roof(facts: &TargetFacts, low: f64, high: f64) -> Vec<(f64, f64)> {
    let (peak, memory) = (facts.peak_flops_per_second.log10(), facts.memory_bytes_per_second.log10());
    let knee = peak - memory;
    let at = |x: f64| (x, peak.min(x + memory));
    [low, knee.clamp(low, high), high].map(at).to_vec()
}

/// `1.2 T`.
fn rate(number: f64) -> String {
    match number {
        n if n >= 1e15 => format!("{} P", short(n / 1e15)),
        n if n >= 1e12 => format!("{} T", short(n / 1e12)),
        n if n >= 1e9 => format!("{} G", short(n / 1e9)),
        n => format!("{} M", short(n / 1e6)),
    }
}
