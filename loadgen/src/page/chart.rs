//! Charts as SVG within the page: no script, no file of their own.

use std::fmt::Write as _;

use super::escape;

/// The drawing area, in units that come out as about a pixel each on a narrow screen.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 40.0;

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: &'static str,
    pub low: f64,
    pub high: f64,
    /// Values and what stands beside them.
    pub ticks: Vec<(f64, String)>,
    /// Equal steps are equal factors.
    pub logarithmic: bool,
}

impl Axis {
    /// From zero to a round number above `most`, with about four ticks.
    pub fn linear(label: &'static str, most: f64, show: impl Fn(f64) -> String) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let magnitude = 10_f64.powf((most / 4.0).log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * magnitude);
        let step = steps
            .into_iter()
            .find(|step| step * 4.0 >= most)
            .unwrap_or(magnitude * 10.0);
        let ticks: Vec<(f64, String)> = (0..=4_u32)
            .map(|number| step * f64::from(number))
            .take_while(|value| *value <= most + step)
            .map(|value| (value, show(value)))
            .collect();
        let high = ticks.last().map_or(most, |(value, _)| *value);
        Self {
            label,
            low: 0.0,
            high,
            ticks,
            logarithmic: false,
        }
    }

    /// Powers of ten around `least` and `most`.
    pub fn powers(
        label: &'static str,
        least: f64,
        most: f64,
        show: impl Fn(f64) -> String,
    ) -> Self {
        let least = least.max(1e-9);
        let low = 10_f64.powf(least.log10().floor());
        let mut high = low * 10.0;
        while high < most {
            high *= 10.0;
        }
        let mut ticks = Vec::new();
        let mut value = low;
        while value <= high * 1.001 {
            ticks.push((value, show(value)));
            value *= 10.0;
        }
        Self {
            label,
            low,
            high,
            ticks,
            logarithmic: true,
        }
    }

    /// Where a value lies, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }
}

/// Points that a line joins.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: &'static str,
    /// Its colour and dash in the style sheet: `one` or `two`.
    pub class: &'static str,
    pub points: Vec<(f64, f64)>,
    /// Whether each point is marked and told of.
    pub marked: bool,
}

/// A place that is pointed out.
#[derive(Clone, Debug)]
pub struct Mark {
    pub at: f64,
    pub text: String,
}

fn x_of(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)
}

fn y_of(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)
}

/// A chart of lines.
pub fn lines(
    id: &str,
    title: &str,
    x: &Axis,
    y: &Axis,
    lines: &[Line],
    mark: Option<&Mark>,
) -> String {
    let mut svg = frame(id, title, lines);
    grid(&mut svg, x, y);
    if let Some(mark) = mark {
        let at = x_of(x, mark.at);
        // On the side where there is room.
        let (anchor, offset) = if x.place(mark.at) > 0.5 {
            ("end", -5.0)
        } else {
            ("start", 5.0)
        };
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"marked\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            HEIGHT - BOTTOM,
            at + offset,
            TOP + 12.0,
            escape(&mark.text)
        );
    }
    for line in lines {
        let points: String = line
            .points
            .iter()
            .map(|(a, b)| format!("{:.1},{:.1} ", x_of(x, *a), y_of(y, *b)))
            .collect();
        let _ = write!(
            svg,
            "<polyline class=\"{}\" points=\"{}\"/>",
            line.class,
            points.trim_end()
        );
        if line.marked {
            for (a, b) in &line.points {
                let _ = write!(
                    svg,
                    "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                    line.class,
                    x_of(x, *a),
                    y_of(y, *b)
                );
            }
        }
    }
    svg.push_str("</svg></figure>");
    svg
}

/// One horizontal bar for each name, with its value written behind it.
pub fn bars(id: &str, title: &str, rows: &[(String, &'static str, f64, String)]) -> String {
    const ROW: f64 = 46.0;
    let most = rows.iter().map(|row| row.2).fold(0.0, f64::max).max(1e-12);
    #[allow(clippy::cast_precision_loss)]
    let height = TOP + ROW * rows.len() as f64;
    let mut svg = format!(
        "<figure id=\"{id}\"><figcaption>{0}</figcaption><svg role=\"img\" aria-label=\"{0}\" \
         viewBox=\"0 0 {WIDTH} {height}\">",
        escape(title)
    );
    let mut top = TOP;
    for (name, class, value, text) in rows {
        let width = (value / most * (WIDTH - 150.0)).max(1.0);
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">{}</text>\
             <rect class=\"{class}\" x=\"0\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\" rx=\"2\"/>\
             <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            top + 8.0,
            escape(name),
            top + 14.0,
            width + 8.0,
            top + 27.0,
            escape(text)
        );
        top += ROW;
    }
    svg.push_str("</svg></figure>");
    svg
}

/// The beginning of a chart, with a legend where there is more than one line.
fn frame(id: &str, title: &str, lines: &[Line]) -> String {
    let mut svg = format!("<figure id=\"{id}\"><figcaption>{}", escape(title));
    if lines.len() > 1 {
        for line in lines {
            let _ = write!(
                svg,
                " <span class=\"key {}\">{}</span>",
                line.class,
                escape(line.name)
            );
        }
    }
    let _ = write!(
        svg,
        "</figcaption><svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">",
        escape(title)
    );
    svg
}

fn grid(svg: &mut String, x: &Axis, y: &Axis) {
    let bottom = HEIGHT - BOTTOM;
    for (value, text) in &y.ticks {
        let at = y_of(y, *value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            escape(text)
        );
    }
    for (value, text) in &x.ticks {
        let at = x_of(x, *value);
        let _ = write!(
            svg,
            "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 4.0,
            bottom + 18.0,
            escape(text)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text class=\"label\" x=\"2\" y=\"12\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 4.0,
        escape(x.label),
        escape(y.label)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_above_what_they_show() {
        for most in [0.003, 1.0, 7.3, 1_234.0, 99_999.0] {
            let axis = Axis::linear("", most, |value| value.to_string());
            assert!(
                axis.high >= most && axis.high <= most * 2.6,
                "{most}: {axis:?}"
            );
            assert!((3..=6).contains(&axis.ticks.len()), "{most}: {axis:?}");
        }
        let axis = Axis::powers("", 3.0, 4_000.0, |value| value.to_string());
        assert_eq!((axis.low, axis.ticks.len()), (1.0, 5));
        assert!((axis.high - 10_000.0).abs() < 1e-6);
        assert!((axis.place(100.0) - 0.5).abs() < 1e-9);
        assert!(axis.place(0.0).abs() < 1e-9, "below the axis is at its end");
    }
}
