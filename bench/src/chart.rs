//! Charts as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const INK: RGBColor = RGBColor(0x33, 0x3b, 0x44);
const LINES: [RGBColor; 6] = [
    OURS,
    RGBColor(0xd9, 0x53, 0x19),
    RGBColor(0x77, 0xac, 0x30),
    RGBColor(0x7e, 0x2f, 0x8e),
    RGBColor(0xed, 0xb1, 0x20),
    RGBColor(0x60, 0x60, 0x60),
];

/// A bar: its name, and the least, the median and the most of all runs.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

/// Horizontal bars from 0, ours coloured, with a line from the least to the most.
pub(crate) fn bars(file: &Path, title: &str, bars: &[Bar]) -> Result<()> {
    let height = 64 + 34 * bars.len() as u32;
    let root = SVGBackend::new(file, (760, height)).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        root.draw(&Text::new(title, (16, 14), (FONT, 21).into_font().color(&INK)))?;
        let most = bars.iter().map(|bar| bar.most).fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| 310 + (value / most * 350.0) as i32;
        let right = Pos::new(HPos::Right, VPos::Center);
        let left = Pos::new(HPos::Left, VPos::Center);
        for (nth, bar) in bars.iter().enumerate() {
            let y = 62 + 34 * nth as i32;
            let style = (FONT, 16).into_font().color(&INK);
            root.draw(&Text::new(bar.name.clone(), (300, y), style.pos(right)))?;
            let color = if bar.name.starts_with(crate::record::OURS) { OURS } else { OTHERS };
            root.draw(&Rectangle::new([(x(0.0), y - 10), (x(bar.median), y + 10)], color.filled()))?;
            root.draw(&PathElement::new([(x(bar.least), y), (x(bar.most), y)], INK.stroke_width(1)))?;
            let style = (FONT, 16).into_font().color(&INK);
            root.draw(&Text::new(crate::record::figure(bar.median), (x(bar.most) + 8, y), style.pos(left)))?;
        }
        root.present()?;
        Ok(())
    };
    draw().map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))
}

/// Lines over a logarithmic x axis; y is logarithmic, too.
pub(crate) fn lines(
    file: &Path,
    title: &str,
    [x, y]: [&str; 2],
    lines: &[(String, Vec<(f64, f64)>)],
) -> Result<()> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let values = || all().map(of);
        values().fold(f64::MAX, f64::min)..values().fold(0.0, f64::max) * 1.05
    };
    let root = SVGBackend::new(file, (760, 420)).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 21).into_font().color(&INK))
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(60)
            .build_cartesian_2d(bounds(|at| at.0).log_scale(), bounds(|at| at.1).log_scale())?;
        chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw()?;
        for (nth, (name, points)) in lines.iter().enumerate() {
            let style = LINES[nth % LINES.len()].stroke_width(if nth == 0 { 6 } else { 2 });
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(OTHERS)
            .position(SeriesLabelPosition::UpperLeft)
            .draw()?;
        root.present()?;
        Ok(())
    };
    draw().map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))
}
