//! What all pages share: their style, text that is safe in HTML, and tables with a column for each model. It must not know
//! what is shown.

use crate::format::push;
use crate::plots::color;

/// The style of our pages.
pub const STYLE: &str = "
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

/// As text in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A table with a column for each model, its title in its colour; titles are escaped already, nothing else is.
pub fn table_of_models(out: &mut String, titles: &[String], rows: &[(String, Vec<String>)]) {
    out.push_str("<table><thead><tr><th></th>");
    for (at, title) in titles.iter().enumerate() {
        let color = color(at);
        push(out, format_args!("<th style=\"color:rgb({},{},{})\">{title}</th>", color.0, color.1, color.2));
    }
    out.push_str("</tr></thead><tbody>\n");
    for (name, cells) in rows {
        push(out, format_args!("<tr><td>{}</td>", escape(name)));
        for cell in cells {
            push(out, format_args!("<td>{}</td>", escape(cell)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
}
