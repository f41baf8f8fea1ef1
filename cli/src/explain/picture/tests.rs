use super::*;
use diptych_codegen::driver::{Rewriting, rewrite};
use diptych_codegen::entry::EntryOptions;
use diptych_models::{Registry, build};
use diptych_passes::algebra::{Numerics, forms};

fn drawn(preset: &str, numerics: Numerics, kinds: &[EntryKind]) -> Vec<Pair> {
    let program = build(&*Registry::zoo().preset(preset).unwrap()).unwrap();
    // What the algebra prefers, whether or not it saves enough to be taken.
    let found = forms(&program, &Rewriting::default().objective, numerics).unwrap();
    pairs(&program, &found.forms[0].parts, kinds)
}

/// Whether every tag is closed by one of its name, in order, and attributes and text have nothing that needs escaping.
fn check_xml(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").expect("no XML declaration");
    let mut pieces = body.split('<');
    assert_eq!(pieces.next().map(str::trim), Some(""), "text before the first tag");
    for piece in pieces {
        let (tag, text) = piece.split_once('>').expect("a tag that does not end");
        assert!(!text.contains('>'), "{text}");
        let entities = ["amp;", "lt;", "gt;", "quot;"];
        for part in [tag, text].iter().flat_map(|part| part.split('&').skip(1)) {
            assert!(entities.iter().any(|entity| part.starts_with(entity)), "&{part}");
        }
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "in {piece}");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a tag without a name"));
        }
        assert!(!open.is_empty() || text.trim().is_empty(), "text outside of the root: {text}");
    }
    assert!(open.is_empty(), "{open:?} is not closed");
}

#[test]
fn a_layer_of_latent_attention() {
    let pairs = drawn("mla-tiny", Numerics::Fast, &[EntryKind::Decode]);
    let layer = pairs.iter().find(|pair| pair.region == "layers").unwrap();
    assert_eq!(layer.entries, [EntryKind::Decode]);
    insta::assert_snapshot!("mla_tiny_layer_before", layer.before);
    insta::assert_snapshot!("mla_tiny_layer_decoding", layer.after);
}

#[test]
fn every_architecture_can_be_drawn() {
    let registry = Registry::zoo();
    let presets: Vec<String> = (registry.families())
        .flat_map(|family| family.presets.iter().map(|preset| preset.0.clone()))
        .filter(|preset| preset.ends_with("-tiny"))
        .collect();
    assert!(presets.len() >= 8, "{presets:?}");
    for preset in presets {
        let pairs = drawn(&preset, Numerics::Fast, &EntryKind::ALL);
        assert!(!pairs.is_empty(), "{preset}: nothing changed");
        for pair in &pairs {
            assert!(!pair.before.contains("penwidth=3"), "{preset}: new in what the model has");
            for graph in [&pair.before, &pair.after] {
                let svg = svg::svg(graph).unwrap();
                check_xml(&svg);
                // The page itself is one more.
                assert_eq!(svg.matches("<rect").count(), graph.matches("[label=").count() + 1);
                assert_eq!(svg.matches("<path").count(), graph.matches(" -> ").count());
                assert_eq!(svg.matches("stroke-width=\"3\"").count(), graph.matches("penwidth=3").count());
            }
        }
    }
}

#[test]
fn what_no_rule_changes_is_not_drawn() {
    let program = build(&*Registry::zoo().preset("llama-tiny").unwrap()).unwrap();
    let rewriting = Rewriting { algebra: false, ..Rewriting::default() };
    let rewritten = rewrite(&program, &rewriting, EntryOptions::new(16, 72, 2)).unwrap();
    let place = tempfile::tempdir().unwrap();
    assert_eq!(write(place.path(), &program, &rewritten, &EntryKind::ALL).unwrap(), 0);
    let page = std::fs::read_to_string(place.path().join("index.html")).unwrap();
    assert!(page.contains("as the model has it"), "{page}");
}

#[test]
fn the_page_shows_what_was_written() {
    let program = build(&*Registry::zoo().preset("mla-tiny").unwrap()).unwrap();
    let rewriting = Rewriting { numerics: Numerics::Fast, ..Rewriting::default() };
    let rewritten = rewrite(&program, &rewriting, EntryOptions::new(16, 72, 2)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let count = write(place.path(), &program, &rewritten, &EntryKind::ALL).unwrap();
    let page = std::fs::read_to_string(place.path().join("index.html")).unwrap();
    let links = page.split("src=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let mut shown = 0;
    for link in links {
        check_xml(&std::fs::read_to_string(place.path().join(link)).unwrap());
        shown += 1;
    }
    assert_eq!(shown, 2 * count);
    assert!(page.contains("layers-decode-after.svg"), "{page}");
}

#[test]
fn broken_tags_are_found() {
    for broken in ["<a>", "<a></b>", "<a>&nbsp;</a>", "<a b=\"></a>", "<a/>x", "<a>></a>"] {
        let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{broken}");
        assert!(std::panic::catch_unwind(|| check_xml(&text)).is_err(), "{broken}");
    }
    check_xml("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<a b=\"c\"><d/>&lt;</a>\n");
}
