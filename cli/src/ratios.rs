//! The page of `explain --ratios`: which form is chosen as more is served for each token trained, and what it costs beside
//! what training alone or serving alone would choose. It computes nothing.

use crate::format::{push, seconds, short};
use crate::page::{STYLE, escape};
use crate::plots::{INK, color, legend, line_in_legend, mesh, svg};
use diptych_cost::ratios::{RatioPoint, RatioSweep};
use diptych_ir::EntryKind;
use plotters::prelude::*;

/// A ratio and what something costs at it.
type At = (f64, f64);

/// The page, of a model with this title; its entries in the order of the objective.
///
/// # Errors
/// When the plot cannot be drawn.
pub fn html(title: &str, entries: &[EntryKind], sweep: &RatioSweep) -> Result<String, String> {
    let mut page = String::new();
    push(
        &mut page,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>Diptych ratios</title>\
             <style>{STYLE} td:nth-child(2) {{ text-align: left; }}</style></head><body>\n<h1>Trained and served: {}</h1>\n\
             <p class=\"quiet\">Predicted, not run.</p>\n{}</body></html>\n",
            escape(title),
            section(entries, sweep)?
        ),
    );
    Ok(page)
}

/// The part of a page: plot and table.
///
/// # Errors
/// When the plot cannot be drawn.
fn section(entries: &[EntryKind], sweep: &RatioSweep) -> Result<String, String> {
    let mut out = String::new();
    out.push_str("<h2>What is chosen as more is served for each token trained</h2>\n");
    out.push_str(&plot(sweep)?);
    match flip(sweep) {
        Some((before, after)) => push(
            &mut out,
            format_args!(
                "<p>What the caches keep changes between {} and {} tokens served for each trained.</p>\n",
                short(before.ratio),
                short(after.ratio)
            ),
        ),
        None => out.push_str("<p>The caches keep the same at every ratio: there is no conflict.</p>\n"),
    }
    out.push_str("<table><thead><tr><th>form</th><th>keeps</th>");
    for entry in entries {
        push(&mut out, format_args!("<th>{}</th>", entry.name()));
    }
    out.push_str("</tr></thead><tbody>\n");
    for (name, form) in named(sweep) {
        let form = &sweep.forms[form];
        push(&mut out, format_args!("<tr><td>{name}</td><td>{}</td>", escape(&form.keeps().join(", "))));
        for &time in form.seconds() {
            push(&mut out, format_args!("<td>{}</td>", escape(&seconds(time))));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
    Ok(out)
}

/// Where what is kept changes first.
fn flip(sweep: &RatioSweep) -> Option<(RatioPoint, RatioPoint)> {
    let keeps = |point: RatioPoint| sweep.forms[point.chosen].keeps();
    sweep.flips().into_iter().find(|&(before, after)| keeps(before) != keeps(after))
}

/// The forms that the page speaks of.
fn named(sweep: &RatioSweep) -> Vec<(&'static str, usize)> {
    let mut forms = vec![
        ("best for training alone", sweep.training_only),
        ("best for serving alone", sweep.serving_only),
    ];
    for (name, point) in
        [("chosen at the least ratio", sweep.points.first()), ("chosen at the greatest", sweep.points.last())]
    {
        forms.extend(point.map(|point| (name, point.chosen)));
    }
    forms
}

/// Cost over ratio, in units of what the better of the two single-minded forms costs: a token trained and its share of
/// tokens served cost so differently over five decades that nothing could be told apart else.
fn plot(sweep: &RatioSweep) -> Result<String, String> {
    let single = [sweep.training_only, sweep.serving_only];
    let better =
        |ratio: f64| single.map(|form| sweep.cost(form, ratio)).into_iter().fold(f64::INFINITY, f64::min);
    let line = |form: &dyn Fn(&RatioPoint) -> usize| -> Vec<At> {
        sweep.points.iter().map(|p| (p.ratio, sweep.cost(form(p), p.ratio) / better(p.ratio))).collect()
    };
    // The chosen last, over the others.
    let lines = [
        ("best for training alone", line(&|_| sweep.training_only), 1),
        ("best for serving alone", line(&|_| sweep.serving_only), 2),
        ("chosen for both", line(&|point| point.chosen), 0),
    ];
    let all = || lines.iter().flat_map(|line| &line.1);
    let (first, last) =
        all().fold((f64::INFINITY, 0.0f64), |(low, high), at| (low.min(at.0), high.max(at.0)));
    let (low, high) = all().fold((1.0f64, 1.0f64), |(low, high), at| (low.min(at.1), high.max(at.1)));
    if !(first < last && high.is_finite()) {
        return Err("a plot over ratios needs two of them".to_owned());
    }
    let (low, high) = (low.log10(), high.log10().max(0.02));
    let margin = 0.08 * (high - low);
    svg(820, 380, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(66)
            // Room above for the legend.
            .build_cartesian_2d(first.log10()..last.log10(), low - margin..high + 4.0 * margin)?;
        mesh(&mut chart)
            .x_desc("tokens served for each token trained")
            .y_desc("cost, over the better of the two")
            .x_label_formatter(&|x| short(10f64.powf(*x)))
            .y_label_formatter(&|y| format!("{:.2}", 10f64.powf(*y)))
            .draw()?;
        for (title, points, at) in &lines {
            let (color, at) = (color(*at), *at);
            let width = if at == 0 { 3 } else { 2 };
            let line = points.iter().map(|point| (point.0.log10(), point.1.log10()));
            chart
                .draw_series(LineSeries::new(line.clone(), color.stroke_width(width)))?
                .label(*title)
                .legend(line_in_legend(color));
            if at == 0 {
                chart.draw_series(line.map(|point| Circle::new(point, 4, color.filled())))?;
            }
        }
        if let Some((before, after)) = flip(sweep) {
            let x = (before.ratio * after.ratio).log10() / 2.0;
            chart.draw_series(DashedLineSeries::new(
                [(x, low - margin), (x, high + margin)],
                5,
                4,
                INK.stroke_width(1),
            ))?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperMiddle, 0.8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_codegen::driver::{CompiledProgram, objective};
    use diptych_codegen::entry::EntryOptions;
    use diptych_cost::ratios::{ratios, sweep_ratios};
    use diptych_cost::{Target, predict_binding};
    use diptych_models::{Registry, build};
    use diptych_passes::algebra::{Binding, Numerics};

    #[test]
    fn the_page_stands_alone_and_shows_every_line() {
        let program = build(&*Registry::zoo().preset("mla-tiny").unwrap()).unwrap();
        let machine = Target::load("reference-cpu").unwrap().into_machine(None).unwrap();
        let options = EntryOptions::new(16, 144, 2);
        let seconds = |compiled: &CompiledProgram, binding: &Binding| {
            Ok(predict_binding(compiled, binding, &machine, 2))
        };
        let sweep =
            sweep_ratios(&program, &objective(), Numerics::Same, &ratios(5), &seconds, options).unwrap();
        let page =
            html("<b>tiny</b>", &[EntryKind::Train, EntryKind::Prefill, EntryKind::Decode], &sweep).unwrap();
        assert_eq!(page.matches("<svg").count(), 1);
        assert!(page.contains("&lt;b&gt;tiny") && !page.contains("<b>tiny"));
        for text in ["chosen for both", "best for training alone", "best for serving alone", "tokens served"]
        {
            assert!(page.contains(text), "{text}");
        }
        for outside in ["src=", "href=", "@import", "url(", "NaN"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
