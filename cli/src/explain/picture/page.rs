//! The page that shows pictures side by side, with what the colours mean. It
//! loads nothing from elsewhere.

use super::Pair;
use super::drawn::Kind;
use crate::format::seconds;
use crate::page::escape;
use std::fmt::Write;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#1c1c1c}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2rem 0 .2rem}\
p{margin:.3rem 0}\
.legend span{display:inline-block;margin:.15rem 1.2rem .15rem 0}\
.legend i{display:inline-block;width:1.6em;height:1em;border:1px solid #222;border-radius:3px;\
margin-right:.4em;vertical-align:-.15em}\
.legend i.new{border-width:3px;background:#fff}\
#beside:checked~.pair{display:flex;gap:1rem;align-items:flex-start}\
figure{margin:.5rem 0;flex:1 1 0;min-width:0;border:1px solid #ccc}\
figcaption{padding:.2rem .6rem;background:#eee}\
img{display:block;margin:auto;max-width:100%}";

/// The page of some pictures, each with what its files begin with.
pub fn html(program: &str, pairs: &[(String, &Pair)]) -> String {
    let mut out = String::new();
    let title = format!("What the algebra did to {}", escape(program));
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{}",
        legend()
    );
    if pairs.is_empty() {
        out.push_str("<p>Every region is compiled as the model has it.</p>\n");
    }
    for (name, pair) in pairs {
        let entries: Vec<&str> = pair.entries.iter().map(|kind| kind.name()).collect();
        let _ = write!(
            out,
            "<h2>Region <code>{}</code>, as compiled for {}</h2>\n<p>{}</p>\n<div class=\"pair\">\n",
            escape(&pair.region),
            entries.join(", "),
            costs(pair)
        );
        for (side, caption) in [("before", "as the model has it"), ("after", "as it is compiled")] {
            let _ = writeln!(
                out,
                "<figure><figcaption>{caption} (<a href=\"{name}-{side}.svg\">in full size</a>, \
                 <a href=\"{name}-{side}.dot\">as text</a>)</figcaption>\
                 <a href=\"{name}-{side}.svg\"><img src=\"{name}-{side}.svg\" alt=\"{caption}\"></a></figure>"
            );
        }
        out.push_str("</div>\n");
    }
    out.push_str("</body></html>\n");
    out
}

fn costs(pair: &Pair) -> String {
    let of = |cost: &diptych_passes::algebra::EntryCost| {
        format!("{} {} → {}", cost.entry.name(), seconds(cost.before), seconds(cost.after))
    };
    let all: Vec<String> = pair.costs.iter().map(of).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!("Of a run, all layers, in the additive model: {}", all.join("; ")),
    }
}

fn legend() -> String {
    let mut out = String::from("<p class=\"legend\">");
    for kind in Kind::ALL {
        let _ = write!(out, "<span><i style=\"background:{}\"></i>{}</span>", kind.colour(), kind.meaning());
    }
    out.push_str(
        "<span><i class=\"new\"></i>new: the model does not compute it</span></p>\n\
         <p>A box has a value's name, how it is computed, and its axes. %7 is a value without a name, @x the parameter \
         x, Σ[a] x · y a contraction over the axis a, x[0..4] a range of x, a→b(x) the value x with its axis a named \
         b. Steps of a chain stand in one box.</p>\n\
         <input type=\"checkbox\" id=\"beside\"><label for=\"beside\"> side by side</label>\n",
    );
    out
}
