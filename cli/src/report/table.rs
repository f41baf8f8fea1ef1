//! The report as one table, for the terminal and, in the same rows, for the
//! page. It computes nothing.

use super::{ModelReport, Report, Speed, loss_text, price_text};
use crate::format::{bytes, seconds, short, thousands};

/// A row: what it is, and a cell for each model.
pub type Row = (String, Vec<String>);

/// The rows, in the order in which a reader asks.
pub fn rows(report: &Report) -> Vec<Row> {
    let models = &report.models;
    let currency = &report.machine.currency;
    let row = |name: &str, cell: &dyn Fn(&ModelReport) -> String| -> Row {
        (name.to_owned(), models.iter().map(cell).collect())
    };
    let mut rows = vec![
        row("parameters", &|model| thousands(model.parameters as u64)),
        row("held-out loss, nats/token", &|model| loss_text(&model.held_out)),
        row("held-out loss, nats/byte", &|model| loss_text(&model.held_out_per_byte)),
        row("training, tokens/s", &|model| short(model.train_tokens_per_second)),
        row("model FLOPs utilisation", &|model| format!("{:.1} %", 100.0 * model.mfu)),
    ];
    type Speeds = fn(&ModelReport) -> &[Speed];
    let parts: [(&str, Speeds); 2] = [("prefill", |model| &model.prefill), ("decode", |model| &model.decode)];
    for (name, speeds) in parts {
        for (at, speed) in models.first().map_or(&[][..], speeds).iter().enumerate() {
            let cell = |model: &ModelReport| {
                speeds(model).get(at).map_or("–".to_owned(), |speed| short(speed.tokens_per_second))
            };
            rows.push(row(&format!("{name} at {}, tokens/s", thousands(speed.context as u64)), &cell));
        }
    }
    rows.push(row("key-value cache, bytes/token", &|model| thousands(model.cache_bytes_per_token as u64)));
    if models.iter().any(|model| model.state_bytes_per_sequence > 0) {
        let states = |model: &ModelReport| thousands(model.state_bytes_per_sequence as u64);
        rows.push(row("states, bytes/sequence", &states));
    }
    rows.extend([
        row("memory bound before the run", &|model| bytes(model.memory_bound as f64)),
        row("peak memory, measured", &|model| {
            model.peak_memory.map_or("–".to_owned(), |peak| bytes(peak as f64))
        }),
        row("compile time", &|model| match (model.compile.compiled, model.compile.reused) {
            (0, _) => format!("{} (cached)", seconds(model.compile.seconds)),
            (_, 0) => seconds(model.compile.seconds),
            _ => format!("{} (part cached)", seconds(model.compile.seconds)),
        }),
        row("training, price/M tokens", &|model| price_text(model.train_price, currency)),
    ]);
    for (name, speeds) in parts {
        for (at, speed) in models.first().map_or(&[][..], speeds).iter().enumerate() {
            let cell = |model: &ModelReport| {
                price_text(speeds(model).get(at).and_then(|speed| speed.price), currency)
            };
            rows.push(row(&format!("{name} at {}, price/M tokens", thousands(speed.context as u64)), &cell));
        }
    }
    rows
}

/// Under which conditions the figures were got, a line each.
pub fn conditions(report: &Report) -> Vec<String> {
    let (c, machine, text) = (&report.conditions, &report.machine, &report.text);
    let mut lines = vec![
        format!(
            "numerics: {}; cache: {}; {} threads, {}-byte vectors, {}",
            c.numerics, c.cache_form, machine.threads, machine.vector_bytes, machine.processor
        ),
        format!(
            "trained on {} tokens each ({} steps of {} × {}) of {}: {} documents, {}, content {}",
            thousands(c.tokens),
            thousands(c.steps),
            c.batch,
            c.time,
            text.source,
            thousands(text.documents as u64),
            bytes(text.bytes as f64),
            &text.content_hash[..text.content_hash.len().min(16)]
        ),
        format!(
            "held-out loss over the same {} documents ({} tokens), ± its standard error over documents",
            thousands(c.held_out_documents as u64),
            thousands(c.held_out_tokens)
        ),
        format!(
            "speeds are of the median step; served {} sequence at a time; price {} {}/h ({})",
            c.serve_batch,
            short(machine.price_per_hour),
            machine.currency,
            machine.price_basis
        ),
    ];
    lines.extend(report.pairs.iter().map(super::Pair::sentence));
    lines.extend(report.notes.iter().cloned());
    lines
}

/// The table as text, columns aligned.
pub fn text(report: &Report) -> String {
    let mut lines: Vec<Row> =
        vec![(String::new(), report.models.iter().map(|model| model.title.clone()).collect())];
    lines.extend(rows(report));
    let width = |text: &str| text.chars().count();
    let first = lines.iter().map(|row| width(&row.0)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..report.models.len())
        .map(|at| lines.iter().map(|row| width(&row.1[at])).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for (at, (name, cells)) in lines.iter().enumerate() {
        out.push_str(&format!("{name}{}", " ".repeat(first - width(name))));
        for (cell, wide) in cells.iter().zip(&widths) {
            out.push_str(&format!("  {}{cell}", " ".repeat(wide - width(cell))));
        }
        out.push('\n');
        if at == 0 {
            let total = first + widths.iter().map(|wide| wide + 2).sum::<usize>();
            out.push_str(&"─".repeat(total));
            out.push('\n');
        }
    }
    out.push('\n');
    for line in conditions(report) {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_stand_under_each_other() {
        let report = super::super::tests::example();
        let text = super::text(&report);
        let table: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
        let width = table[0].chars().count();
        assert!(table.iter().all(|line| line.chars().count() == width), "{text}");
        assert!(text.contains("held-out loss, nats/token       4.5000 ± 0.0300"), "{text}");
        assert!(text.contains("Multi-head and Latent cannot be told apart (-0.0100 ± 0.0200)"), "{text}");
        assert!(text.contains("decode at 512, tokens/s"), "{text}");
    }
}
