//! The report as one HTML file that needs no other: table, plots, conditions.
//! It computes nothing.

use super::{Report, plots, table};
use crate::format::push;
use crate::page::{STYLE, escape, table_of_models};

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
    table_of_models(out, &models, &table::rows(report));
    out.push_str("<ul class=\"quiet\">");
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
