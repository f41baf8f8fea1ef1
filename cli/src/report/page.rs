//! The report as one HTML file that needs no other: table, plots, conditions.
//! It computes nothing.

use super::{Report, plots, table};
use std::fmt::Write;

/// The style of our pages.
pub(crate) const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 860px; margin: 32px auto; padding: 0 20px; }
h1 { font-size: 26px; margin-bottom: 4px; } h2 { font-size: 19px; margin-top: 36px; } h3 { font-size: 15px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child { text-align: left; color: #555; }
thead th { border-bottom: 2px solid #888; }
ul { padding-left: 20px; } li { margin: 2px 0; }
svg { width: 100%; height: auto; }
pre { background: #f6f6f6; padding: 12px; overflow-x: auto; font-size: 13px; white-space: pre-wrap; }
.new { font-weight: 600; } .quiet { color: #666; }
";

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn html(report: &Report) -> Result<String, String> {
    let mut page = String::new();
    let out = &mut page;
    let models: Vec<String> = report.models.iter().map(|model| escape(&model.title)).collect();
    let head = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Diptych bench</title>\
         <style>{STYLE}</style></head><body>\n<h1>One program, trained and served</h1>\n\
         <p class=\"quiet\">diptych bench {}: {}, each compiled once, trained on the same tokens and served \
         from the weights just trained, in {}.</p>\n",
        escape(&report.version),
        models.join(", "),
        escape(&crate::format::seconds(report.seconds))
    );
    out.push_str(&head);
    out.push_str("<table><thead><tr><th></th>");
    for (at, title) in models.iter().enumerate() {
        let color = plots::color(at);
        push(out, format_args!("<th style=\"color:rgb({},{},{})\">{title}</th>", color.0, color.1, color.2));
    }
    out.push_str("</tr></thead><tbody>\n");
    for (name, cells) in table::rows(report) {
        push(out, format_args!("<tr><td>{}</td>", escape(&name)));
        for cell in cells {
            push(out, format_args!("<td>{}</td>", escape(&cell)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n<ul class=\"quiet\">");
    for line in table::conditions(report) {
        push(out, format_args!("<li>{}</li>\n", escape(&line)));
    }
    out.push_str("</ul>\n<h2>Loss while training</h2>\n");
    out.push_str(&plots::loss_curves(report)?);
    out.push_str("<h2>What training costs against what serving costs</h2>\n<p class=\"quiet\">Left and low is cheap. A point for each context length.</p>\n");
    out.push_str(&plots::cost_against_cost(report)?);
    out.push_str("<h2>Where a training step's time goes</h2>\n<p class=\"quiet\">By kernel, in the last steps, which were timed launch by launch; × is how often it is launched in a step, and predicted is what it would take on this machine with nothing else to do.</p>\n");
    for (at, model) in report.models.iter().enumerate() {
        push(out, format_args!("<h3>{}</h3>\n", escape(&model.title)));
        out.push_str(&plots::kernel_bars(model, at)?);
    }
    out.push_str("<h2>What they write</h2>\n<p class=\"quiet\">The likeliest continuation of the start of a held-out document.</p>\n");
    for model in &report.models {
        let (title, prompt, text) =
            (escape(&model.title), escape(&model.sample.prompt), escape(&model.sample.text));
        push(out, format_args!("<h3>{title}</h3>\n<pre>{prompt}<span class=\"new\">{text}</span></pre>\n"));
    }
    out.push_str("</body></html>\n");
    Ok(page)
}

/// Writes to the end.
pub(crate) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
}

/// As text in HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_stands_alone_and_escapes_what_it_shows() {
        let report = super::super::tests::example();
        let page = super::html(&report).unwrap();
        assert_eq!(page.matches("<svg").count(), 2 + report.models.len());
        assert!(page.contains("&lt;b&gt;not markup&lt;/b&gt;") && !page.contains("<b>not"));
        assert!(page.contains("let x = &lt;T&gt;::new();"));
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
