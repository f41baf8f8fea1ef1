//! The places of boxes and arrows on a page, by layout-rs, and the page as SVG.
//! It knows nothing of what is drawn.

use crate::failure::{Failure, Result};
use crate::page::escape;
use layout::core::color::Color;
use layout::core::format::{ClipHandle, RenderBackend};
use layout::core::geometry::{Point, Position};
use layout::core::style::StyleAttr;
use layout::gv::parser::ast::{Graph, Stmt};
use layout::gv::{DotParser, GraphBuilder};
use layout::std_shapes::shapes::ShapeKind;
use std::fmt::Write;

/// Height of a line, width of a character and size of the font, in pixels: a monospace font is 0.6 as wide as high.
const LINE: f64 = 13.0;
const CHARACTER: f64 = 6.65;
const FONT: f64 = 11.0;
/// Around the text of a box, on each side.
const PADDING: f64 = 5.0;
/// Between boxes.
const GAP: Point = Point { x: 12.0, y: 26.0 };
/// Around all.
const MARGIN: f64 = 8.0;

/// Renders a graph in the language of graphviz whose nodes are boxes.
///
/// # Errors
/// When it is no such graph.
pub fn svg(dot: &str) -> Result<String> {
    let parsed = DotParser::new(dot).process();
    let parsed = parsed.map_err(|problem| Failure(format!("a picture's text cannot be read: {problem}")))?;
    let mut builder = GraphBuilder::new();
    builder.visit_graph(&parsed);
    let mut graph = builder.get();
    if graph.num_nodes() == 0 {
        return Err(Failure::new("a picture of nothing"));
    }
    // It looks for cycles along every path, of which a layer has thousands; a program has none.
    graph.dag.set_validate(false);
    for (node, width) in graph.iter_nodes().zip(frame_widths(&parsed)) {
        let element = graph.element_mut(node);
        element.look.line_width = width;
        let ShapeKind::Box(text) = &element.shape else { continue };
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let size = Point::new(
            longest as f64 * CHARACTER + 2.0 * PADDING,
            text.lines().count() as f64 * LINE + 2.0 * PADDING,
        );
        element.pos = Position::new(Point::zero(), size, Point::zero(), GAP);
    }
    let mut page = Page::default();
    graph.do_it(false, false, false, &mut page);
    Ok(page.finish())
}

/// The width of each node's frame, in the order of the nodes: layout-rs does not read it.
fn frame_widths(graph: &Graph) -> Vec<usize> {
    let nodes = graph.list.list.iter().filter_map(|statement| match statement {
        Stmt::Node(node) => Some(node),
        _ => None,
    });
    let width = |list: &[(String, String)]| {
        let given = list.iter().find(|(name, _)| name == "penwidth");
        given.and_then(|(_, width)| width.parse().ok()).unwrap_or(1)
    };
    nodes.map(|node| width(&node.list.list)).collect()
}

/// What is drawn so far: arrows below boxes.
#[derive(Default)]
struct Page {
    arrows: String,
    boxes: String,
    least: Option<(f64, f64)>,
    most: (f64, f64),
}

impl Page {
    fn reach(&mut self, x: f64, y: f64) {
        let least = self.least.unwrap_or((x, y));
        self.least = Some((least.0.min(x), least.1.min(y)));
        self.most = (self.most.0.max(x), self.most.1.max(y));
    }

    fn finish(self) -> String {
        let (left, top) = self.least.unwrap_or_default();
        let (left, top) = (left - MARGIN, top - MARGIN);
        let (width, height) = (self.most.0 - left + MARGIN, self.most.1 - top + MARGIN);
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"{left:.0} {top:.0} {width:.0} {height:.0}\">\n\
             <defs><marker id=\"head\" markerWidth=\"9\" markerHeight=\"7\" refX=\"8\" refY=\"3.5\" orient=\"auto\">\
             <polygon points=\"0 0, 9 3.5, 0 7\" fill=\"#555\"/></marker></defs>\n\
             <rect x=\"{left:.0}\" y=\"{top:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#fff\"/>\n\
             <g fill=\"none\" stroke=\"#555\" stroke-width=\"1.1\" marker-end=\"url(#head)\">\n{}</g>\n\
             <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"{FONT}px\" \
             text-anchor=\"middle\">\n{}</g>\n</svg>\n",
            self.arrows, self.boxes
        )
    }
}

// Writing to a string does not fail.
impl RenderBackend for Page {
    fn draw_rect(
        &mut self,
        xy: Point,
        size: Point,
        look: &StyleAttr,
        _: Option<String>,
        _: Option<ClipHandle>,
    ) {
        self.reach(xy.x, xy.y);
        self.reach(xy.x + size.x, xy.y + size.y);
        let fill = look.fill_color.unwrap_or_else(|| Color::fast("white")).to_web_color();
        let _ = writeln!(
            self.boxes,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\" fill=\"{fill}\" \
             stroke=\"#222\" stroke-width=\"{}\"/>",
            xy.x, xy.y, size.x, size.y, look.line_width
        );
    }

    fn draw_text(&mut self, middle: Point, text: &str, _: &StyleAttr) {
        let lines: Vec<&str> = text.lines().collect();
        let mut y = middle.y - lines.len() as f64 * LINE / 2.0 + FONT;
        for (at, line) in lines.iter().enumerate() {
            let weight = if at == 0 { " font-weight=\"bold\"" } else { "" };
            let (x, line) = (middle.x, escape(line));
            let _ = writeln!(self.boxes, "<text x=\"{x:.1}\" y=\"{y:.1}\"{weight}>{line}</text>");
            y += LINE;
        }
    }

    fn draw_arrow(
        &mut self,
        path: &[(Point, Point)],
        _: bool,
        _: (bool, bool),
        _: &StyleAttr,
        _: Option<String>,
        _: &str,
    ) {
        let [start, next, others @ ..] = path else { return };
        let mut steps = format!(
            "M {:.1} {:.1} C {:.1} {:.1}, {:.1} {:.1}, {:.1} {:.1}",
            start.0.x, start.0.y, start.1.x, start.1.y, next.0.x, next.0.y, next.1.x, next.1.y
        );
        for (control, to) in others {
            let _ = write!(steps, " S {:.1} {:.1}, {:.1} {:.1}", control.x, control.y, to.x, to.y);
        }
        self.reach(start.0.x, start.0.y);
        for (_, to) in &path[1..] {
            self.reach(to.x, to.y);
        }
        let _ = writeln!(self.arrows, "<path d=\"{steps}\"/>");
    }

    fn draw_line(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_circle(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn create_clip(&mut self, _: Point, _: Point, _: usize) -> ClipHandle {
        0
    }
}
