//! The comparison as a table, for the terminal and, in the same rows, for the page. It computes nothing.

use super::findings::{Findings, ModelFindings, OnTarget, Point};
use crate::format::{bytes, short, thousands};
use diptych_cost::JobKind;

/// A row: what it is, and a cell for each model.
pub type Row = (String, Vec<String>);

/// A name with its rows.
pub struct Section {
    /// What the rows are about.
    pub title: String,
    /// The rows.
    pub rows: Vec<Row>,
}

/// All sections: the models by themselves, then what each target makes of them.
pub fn sections(findings: &Findings) -> Vec<Section> {
    let mut sections = vec![Section { title: "Models".to_owned(), rows: of_models(findings) }];
    for (at, target) in findings.targets.iter().enumerate() {
        let price = match (target.price_per_hour, &target.currency) {
            (Some(price), Some(currency)) => format!("{} {currency}/h", short(price)),
            _ => "no price".to_owned(),
        };
        sections.push(Section {
            title: format!("{} ({}, {price}), {}", target.name, bytes(target.memory_bytes), target.dtype),
            rows: on_target(findings, at),
        });
    }
    sections
}

fn row(findings: &Findings, name: impl Into<String>, cell: impl Fn(&ModelFindings) -> String) -> Row {
    (name.into(), findings.models.iter().map(cell).collect())
}

fn of_models(findings: &Findings) -> Vec<Row> {
    let contexts = &findings.grid.contexts;
    let mut rows = vec![
        row(findings, "parameters", |model| thousands(model.parameters as u64)),
        row(findings, "of these active for a token", |model| thousands(model.active_parameters as u64)),
        row(findings, "context", |model| thousands(model.context as u64)),
    ];
    for &context in contexts {
        rows.push(row(
            findings,
            format!("training at {}, GFLOP/token", thousands(context as u64)),
            |model| {
                let found =
                    model.on.first().and_then(|on| on.by_context.iter().find(|at| at.context == context));
                found.map_or_else(none, |at| short(at.train_flops_per_token / 1e9))
            },
        ));
    }
    rows
}

fn none() -> String {
    "–".to_owned()
}

fn on_target(findings: &Findings, at: usize) -> Vec<Row> {
    let with = |name: String, cell: &dyn Fn(&OnTarget) -> String| {
        row(findings, name, |model| model.on.get(at).map_or_else(none, cell))
    };
    let mut rows = vec![
        with("weights to serve".into(), &|on| bytes(on.weight_bytes)),
        with("cache, bytes/token".into(), &|on| thousands(on.cache_bytes_per_token as u64)),
    ];
    let recurrent = |model: &ModelFindings| model.on.iter().any(|on| on.state_bytes_per_sequence > 0.0);
    if findings.models.iter().any(recurrent) {
        rows.push(with("states, bytes/sequence".into(), &|on| thousands(on.state_bytes_per_sequence as u64)));
    }
    rows.extend([
        with("training: parameters".into(), &|on| bytes(on.trained_bytes)),
        with("training: gradients".into(), &|on| bytes(on.gradient_bytes)),
        with("training: optimizer".into(), &|on| bytes(on.optimizer_bytes)),
    ]);
    for &context in &findings.grid.contexts {
        let name = format!("training: activations of 1 × {}", thousands(context as u64));
        rows.push(with(name, &|on| {
            let found = on.by_context.iter().find(|at| at.context == context);
            found.map_or_else(none, |at| bytes(at.activation_bytes))
        }));
    }
    let currency = findings.targets[at].currency.clone();
    let unit = currency.clone().map_or("s".to_owned(), |currency| currency);
    for job in JobKind::ALL {
        for &batch in &findings.grid.batches {
            for &context in &findings.grid.contexts {
                let name =
                    format!("{}, {batch} × {}, {unit}/M tokens", job.name(), thousands(context as u64));
                rows.push(with(name, &|on| {
                    let of =
                        |point: &&Point| (point.job, point.batch, point.context) == (job, batch, context);
                    on.points.iter().find(of).map_or_else(none, cell)
                }));
            }
        }
    }
    rows
}

/// `0.0123 memory ×2`: the price (seconds without one), what bounds it, and how many devices its memory asks for.
fn cell(point: &Point) -> String {
    let amount = point.price_per_million_tokens.unwrap_or(point.seconds_per_million_tokens);
    format!("{} {} ×{}", short(amount), point.bound, thousands(point.devices))
}

/// What the figures mean, a line each.
pub fn notes(findings: &Findings) -> Vec<String> {
    let mut notes = vec![
        "Predicted from tile programs and plans, nothing was run: seconds of one device that holds all of the model, \
         whatever is said after ×."
            .to_owned(),
        "After the price: what most of the time is bound by, and × how many devices the memory asks for; splitting \
         the work over them is not in the price."
            .to_owned(),
        format!(
            "Batch × context: sequences of a micro-batch and their tokens (train; a step of {} tokens), prompts and \
             their tokens (prefill), sequences and the positions that each new token sees (decode).",
            thousands(findings.grid.step_tokens as u64)
        ),
        "GFLOP/token: contractions, three times those of going forward, averaged over a sequence; what a causal mask \
         leaves out is not counted."
            .to_owned(),
    ];
    for target in &findings.targets {
        notes.push(format!("{}: {}; price {}", target.name, target.description, target.price_basis));
        if !target.unmeasured.is_empty() {
            let keys: Vec<&str> = target.unmeasured.keys().map(String::as_str).collect();
            notes.push(format!("{}: assumed, not seen: {}", target.name, keys.join(", ")));
        }
    }
    notes
}

/// The comparison as text, columns aligned.
pub fn text(findings: &Findings) -> String {
    let titles: Vec<String> = findings.models.iter().map(|model| model.title.clone()).collect();
    let sections = sections(findings);
    let width = |text: &str| text.chars().count();
    let all = || sections.iter().flat_map(|section| &section.rows);
    let first = all().map(|row| width(&row.0)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len())
        .map(|at| all().map(|row| width(&row.1[at])).chain([width(&titles[at])]).max().unwrap_or(0))
        .collect();
    let line = |name: &str, cells: &[String]| {
        let mut line = format!("{name}{}", " ".repeat(first - width(name)));
        for (cell, wide) in cells.iter().zip(&widths) {
            line.push_str(&format!("  {}{cell}", " ".repeat(wide - width(cell))));
        }
        line.push('\n');
        line
    };
    let rule = format!("{}\n", "─".repeat(first + widths.iter().map(|wide| wide + 2).sum::<usize>()));
    let mut out = String::new();
    for section in &sections {
        out.push_str(&format!("{}\n{}{rule}", section.title, line("", &titles)));
        section.rows.iter().for_each(|(name, cells)| out.push_str(&line(name, cells)));
        out.push('\n');
    }
    notes(findings).iter().for_each(|note| out.push_str(&format!("{note}\n")));
    out
}

#[cfg(test)]
mod tests {
    use super::super::findings::tests::example;

    #[test]
    fn columns_stand_under_each_other_and_each_point_has_a_row() {
        let findings = example();
        let text = super::text(&findings);
        let target: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.starts_with("h100-sxm"))
            .take_while(|line| !line.is_empty())
            .collect();
        let width = target[1].chars().count();
        assert!(target[1..].iter().all(|line| line.chars().count() == width), "{text}");
        let points =
            |job: &str| target.iter().filter(|line| line.starts_with(job) && line.contains(" × ")).count();
        assert_eq!((points("train,"), points("prefill"), points("decode")), (4, 4, 4), "{text}");
        // The context of the second is shorter than the longest of the grid.
        let longest = target.iter().find(|line| line.starts_with("decode, 2 × 2,048")).unwrap();
        assert!(longest.ends_with('–'), "{longest}");
    }
}
