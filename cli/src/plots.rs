//! How all plots look: colours by position, in the same order everywhere, lines behind, axes and legends, as SVG. It
//! must not know what is plotted.

use plotters::chart::MeshStyle;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::FontFamily;

/// What a plot is drawn on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
/// What drawing comes to.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;
/// Axes of numbers.
pub type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Told apart by people who do not see red and green as different (Okabe and Ito 2008).
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// Of axes and text.
pub const INK: RGBColor = RGBColor(60, 60, 60);
/// Of lines behind.
pub const GRID: RGBColor = RGBColor(225, 225, 225);

/// A model's colour, by its position.
pub fn color(at: usize) -> RGBColor {
    COLORS[at % COLORS.len()]
}

/// Draws an SVG of this size.
///
/// # Errors
/// When it cannot be drawn.
pub fn svg(width: u32, height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        draw(&area).map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

/// Plain text of a size.
pub fn font(size: u32) -> TextStyle<'static> {
    (FontFamily::SansSerif, size).into_font().color(&INK)
}

/// Lines behind and axes, still to be described and drawn.
pub fn mesh<'m, 'a, 'b>(
    chart: &'m mut Chart<'a, 'b>,
) -> MeshStyle<'a, 'm, RangedCoordf64, RangedCoordf64, SVGBackend<'b>> {
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).bold_line_style(GRID).axis_style(INK).label_style(font(13));
    mesh
}

/// Draws the legend of all series that have a label, on a ground that hides so much of what is behind it.
///
/// # Errors
/// When it cannot be drawn.
pub fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition, opacity: f64) -> Drawn {
    chart
        .configure_series_labels()
        .position(position)
        .border_style(GRID)
        .background_style(WHITE.mix(opacity))
        .label_font(font(14))
        .draw()?;
    Ok(())
}

/// What stands for a line in a legend.
pub fn line_in_legend(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3))
}

/// What stands for points in a legend.
pub fn point_in_legend(color: RGBColor) -> impl Fn((i32, i32)) -> Circle<(i32, i32), i32> {
    move |(x, y)| Circle::new((x + 9, y), 5, color.filled())
}

/// The least and the greatest of the numbers that are finite.
pub fn extent(numbers: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = numbers
        .filter(|x| x.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    (low <= high).then_some((low, high))
}
