//! The comparison as one HTML file that needs no other: tables, plots, notes. It computes nothing.

use super::findings::Findings;
use super::plots::{Along, cost, roofline};
use super::table;
use crate::format::push;
use crate::page::{STYLE, escape, table_of_models};
use diptych_cost::JobKind;

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn html(findings: &Findings) -> Result<String, String> {
    let mut page = String::new();
    let out = &mut page;
    let titles: Vec<String> = findings.models.iter().map(|model| escape(&model.title)).collect();
    push(
        out,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>Diptych compare</title>\
             <style>{STYLE} td {{ white-space: nowrap; padding: 3px 8px; }} body {{ max-width: 1000px; }}</style></head><body>\n<h1>What they cost to train and to serve</h1>\n\
             <p class=\"quiet\">diptych compare {}: {}. Predicted, not run.</p>\n",
            escape(&findings.version),
            titles.join(", ")
        ),
    );
    for (at, section) in table::sections(findings).iter().enumerate() {
        push(out, format_args!("<h2>{}</h2>\n", escape(&section.title)));
        table_of_models(out, &titles, &section.rows);
        if at > 0 {
            write_plots(out, findings, at - 1)?;
        }
    }
    out.push_str("<h2>What the figures mean</h2>\n<ul class=\"quiet\">");
    for note in table::notes(findings) {
        push(out, format_args!("<li>{}</li>\n", escape(&note)));
    }
    out.push_str("</ul>\n</body></html>\n");
    Ok(page)
}

fn write_plots(out: &mut String, findings: &Findings, target: usize) -> Result<(), String> {
    let name = escape(&findings.targets[target].name);
    for (along, title) in [(Along::Context, "context"), (Along::Batch, "batch")] {
        let plots = JobKind::ALL.map(|job| cost(findings, target, job, along));
        let plots = plots.into_iter().collect::<Result<Vec<_>, _>>()?;
        if plots.iter().any(Option::is_some) {
            push(out, format_args!("<h3>{name}: cost against {title}</h3>\n"));
            plots.into_iter().flatten().for_each(|plot| out.push_str(&plot));
        }
    }
    let (batch, context) = findings.grid.middle();
    push(
        out,
        format_args!(
            "<h3>{name}: the longest kernels under its roof</h3>\n<p class=\"quiet\">At batch {batch} and context \
             {context}; a larger circle is a larger share of the model's time.</p>\n"
        ),
    );
    for job in JobKind::ALL {
        out.push_str(&roofline(findings, target, job)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::findings::tests::example;

    #[test]
    fn the_page_stands_alone_and_has_every_plot() {
        let mut findings = example();
        findings.models[0].title = "<b>one</b>".into();
        let page = super::html(&findings).unwrap();
        // Three jobs: against context, against batch, and under the roof.
        assert_eq!(page.matches("<svg").count(), 9);
        assert!(page.contains("&lt;b&gt;one&lt;/b&gt;") && !page.contains("<b>one"));
        for outside in ["src=", "href=", "@import", "url(", "NaN"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
