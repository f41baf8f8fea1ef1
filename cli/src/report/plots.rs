//! The plots of the page, as SVG. Colours go by model. It computes nothing but smoothing for the eye.

use super::{ModelReport, Report};
use crate::plots::{color, extent, font, legend, line_in_legend, mesh, point_in_legend, svg};
use plotters::prelude::*;

/// Bars of the plot of kernels, the rest taken together.
const KERNELS_SHOWN: usize = 10;

/// The bounds of some numbers, with a margin.
fn bounds(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let Some((low, high)) = extent(numbers) else { return (0.0, 1.0) };
    let margin = (0.06 * (high - low)).max(1e-9 + 0.01 * high.abs());
    (low - margin, high + margin)
}

/// Training loss against tokens, each step faint and their running mean on top.
///
/// # Errors
/// When it cannot be drawn.
pub fn loss_curves(report: &Report) -> Result<String, String> {
    let most =
        report.models.iter().flat_map(|model| &model.curve).map(|point| point.tokens).max().unwrap_or(1);
    let (low, high) = bounds(report.models.iter().flat_map(|model| &model.curve).map(|point| point.loss));
    svg(820, 380, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..most as f64, low..high)?;
        mesh(&mut chart)
            .x_desc("tokens")
            .y_desc("training loss, nats/token")
            .x_label_formatter(&|x| crate::format::thousands(*x as u64))
            .draw()?;
        for (at, model) in report.models.iter().enumerate() {
            let raw = model.curve.iter().map(|point| (point.tokens as f64, point.loss));
            chart.draw_series(LineSeries::new(raw, color(at).mix(0.25).stroke_width(1)))?;
            chart
                .draw_series(LineSeries::new(smooth(model), color(at).stroke_width(2)))?
                .label(&model.title)
                .legend(line_in_legend(color(at)));
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight, 1.0)
    })
}

/// A running mean over a twentieth of the steps.
fn smooth(model: &ModelReport) -> Vec<(f64, f64)> {
    let window = (model.curve.len() / 20).max(1);
    let mean = |points: &[super::Point]| {
        let loss = points.iter().map(|point| point.loss).sum::<f64>() / points.len() as f64;
        (points.last().map_or(0.0, |point| point.tokens as f64), loss)
    };
    model.curve.windows(window).map(mean).collect()
}

/// What training costs against what serving costs: a point for each model and context.
///
/// # Errors
/// When it cannot be drawn.
pub fn cost_against_cost(report: &Report) -> Result<String, String> {
    let points = |model: &ModelReport| -> Vec<(f64, f64, usize)> {
        let train = model.train_price;
        let decode = model.decode.iter();
        decode.filter_map(|speed| Some((train?, speed.price?, speed.context))).collect()
    };
    let all: Vec<(f64, f64, usize)> = report.models.iter().flat_map(points).collect();
    if all.is_empty() {
        return Ok("<p>No price in the target, so no costs.</p>".to_owned());
    }
    let (x_low, x_high) = bounds(all.iter().map(|point| point.0));
    let (y_low, y_high) = bounds(all.iter().map(|point| point.1));
    // Room above the highest point for the legend.
    let (x_pad, y_pad) = (0.12 * (x_high - x_low), 0.06 * (y_high - y_low));
    let currency = report.machine.currency.as_str();
    svg(820, 380, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(x_low - x_pad..x_high + 2.0 * x_pad, y_low - y_pad..y_high + 7.0 * y_pad)?;
        mesh(&mut chart)
            .x_desc(format!("training, {currency} per million tokens"))
            .y_desc(format!("decode, {currency} per million tokens"))
            .x_label_formatter(&|x| format!("{x:.4}"))
            .y_label_formatter(&|y| crate::format::short(*y))
            .draw()?;
        for (at, model) in report.models.iter().enumerate() {
            let points = points(model);
            let line = points.iter().map(|&(x, y, _)| (x, y));
            chart.draw_series(LineSeries::new(line.clone(), color(at).mix(0.4).stroke_width(1)))?;
            chart
                .draw_series(line.map(|point| Circle::new(point, 5, color(at).filled())))?
                .label(&model.title)
                .legend(point_in_legend(color(at)));
            let labels = points.iter().map(|&(x, y, context)| {
                EmptyElement::at((x, y)) + Text::new(format!("at {context}"), (9, -7), font(12))
            });
            chart.draw_series(labels)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight, 1.0)
    })
}

/// Where a model's training step goes: a bar for each of the longest kernels.
///
/// # Errors
/// When it cannot be drawn.
pub fn kernel_bars(model: &ModelReport, at: usize) -> Result<String, String> {
    let total = model.kernels.iter().map(|kernel| kernel.seconds).sum::<f64>() + model.unattributed_seconds;
    let (shown, rest) = model.kernels.split_at(model.kernels.len().min(KERNELS_SHOWN));
    let mut bars: Vec<(String, f64, Option<f64>)> = shown
        .iter()
        .map(|kernel| {
            (format!("{} ×{}", kernel.name, kernel.launches), kernel.seconds, Some(kernel.predicted_seconds))
        })
        .collect();
    if !rest.is_empty() {
        let sum = |of: fn(&super::KernelTime) -> f64| rest.iter().map(of).sum::<f64>();
        let predicted = sum(|kernel| kernel.predicted_seconds);
        bars.push((format!("{} more kernels", rest.len()), sum(|kernel| kernel.seconds), Some(predicted)));
    }
    bars.push(("outside of kernels".to_owned(), model.unattributed_seconds, None));
    const ROW: i32 = 22;
    const LABELS: i32 = 320;
    const LONGEST: f64 = 280.0;
    let longest = bars.iter().map(|bar| bar.1).fold(1e-12, f64::max);
    svg(820, (bars.len() as i32 * ROW + 12) as u32, |area| {
        for (row, (name, seconds, predicted)) in bars.iter().enumerate() {
            let y = 6 + row as i32 * ROW;
            let name: String = match name.chars().count() {
                0..=46 => name.clone(),
                _ => name.chars().take(45).chain(['…']).collect(),
            };
            let anchor = plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Right,
                plotters::style::text_anchor::VPos::Center,
            );
            area.draw(&Text::new(name, (LABELS - 8, y + ROW / 2), font(13).pos(anchor)))?;
            let length = (LONGEST * seconds.max(0.0) / longest).round() as i32;
            area.draw(&Rectangle::new(
                [(LABELS, y + 3), (LABELS + length, y + ROW - 3)],
                color(at).filled(),
            ))?;
            let mut figure =
                format!("{} ({:.1} %)", crate::format::seconds(*seconds), 100.0 * seconds / total);
            if let Some(predicted) = predicted {
                figure.push_str(&format!(", predicted {}", crate::format::seconds(*predicted)));
            }
            let left = plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Left,
                plotters::style::text_anchor::VPos::Center,
            );
            area.draw(&Text::new(figure, (LABELS + length + 6, y + ROW / 2), font(13).pos(left)))?;
        }
        Ok(())
    })
}
