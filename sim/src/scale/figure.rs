//! Plain line pictures as SVG, readable on light and on dark pages.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Room left, right, above and below the plot.
const MARGINS: (f64, f64, f64, f64) = (64.0, 36.0, 44.0, 56.0);
/// Told apart on white and on black, and by most who see colours differently (Okabe and Ito, 2008).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999"];

/// How values are laid out along an axis.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By magnitude.
    Log,
}

/// One axis.
#[derive(Clone, PartialEq, Debug)]
pub struct Axis {
    /// What it measures, with its unit.
    pub label: String,
    /// From where to where.
    pub range: (f64, f64),
    /// See [`Scale`].
    pub scale: Scale,
    /// Where to put marks.
    pub marks: Vec<f64>,
}

impl Axis {
    /// An even axis with these marks, from the first to the last.
    pub fn linear(label: &str, marks: Vec<f64>) -> Self {
        Axis::new(label, Scale::Linear, marks)
    }

    /// A logarithmic axis with these marks, from the first to the last.
    pub fn log(label: &str, marks: Vec<f64>) -> Self {
        Axis::new(label, Scale::Log, marks)
    }

    fn new(label: &str, scale: Scale, marks: Vec<f64>) -> Self {
        let ends = |v: &Vec<f64>| Some((*v.first()?, *v.last()?));
        Axis {
            label: label.into(),
            range: ends(&marks).unwrap_or((0.0, 1.0)),
            scale,
            marks,
        }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let (least, most) = self.range;
        let at = match self.scale {
            Scale::Linear => (value - least) / (most - least),
            Scale::Log => (value / least).ln() / (most / least).ln(),
        };
        at.clamp(0.0, 1.0)
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mark {
    /// Points joined by a line.
    Line,
    /// A dashed line without points: a goal or a theory.
    Dashed,
    /// Upright bars.
    Bars,
    /// From the second to the third value at each place.
    Range,
}

/// Values to draw.
#[derive(Clone, PartialEq, Debug)]
pub struct Series {
    /// What they are.
    pub name: String,
    /// How to draw them.
    pub mark: Mark,
    /// Place, value, and for a range the value it ends at.
    pub values: Vec<(f64, f64, f64)>,
}

impl Series {
    /// A series of single values.
    pub fn new(name: &str, mark: Mark, values: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Series {
            name: name.into(),
            mark,
            values: values.into_iter().map(|(x, y)| (x, y, y)).collect(),
        }
    }

    /// A series of ranges.
    pub fn range(name: &str, values: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        Series {
            name: name.into(),
            mark: Mark::Range,
            values: values.into_iter().collect(),
        }
    }
}

/// A picture.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
}

impl Figure {
    /// The picture as an SVG document.
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
             <style>\n\
             .ink {{ fill: #24292f }} .axis {{ stroke: #24292f }} .grid {{ stroke: #d0d7de }}\n\
             @media (prefers-color-scheme: dark) {{\n\
             .ink {{ fill: #d0d7de }} .axis {{ stroke: #d0d7de }} .grid {{ stroke: #3d444d }}\n\
             }}\n\
             </style>\n\
             <text class=\"ink\" x=\"{left}\" y=\"24\" font-size=\"15\" font-weight=\"600\">{title}</text>\n",
            title = escape(&self.title),
            left = MARGINS.0,
        );
        self.axes(&mut out);
        for (n, series) in self.series.iter().enumerate() {
            self.draw(&mut out, series, COLOURS[n % COLOURS.len()]);
            self.legend(&mut out, n, series, COLOURS[n % COLOURS.len()]);
        }
        out.push_str("</svg>\n");
        out
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (left, right, top, bottom) = MARGINS;
        (
            left + self.x.place(x) * (WIDTH - left - right),
            HEIGHT - bottom - self.y.place(y) * (HEIGHT - top - bottom),
        )
    }

    fn axes(&self, out: &mut String) {
        let (left, right, top, bottom) = MARGINS;
        let (base, end) = (HEIGHT - bottom, WIDTH - right);
        for mark in &self.y.marks {
            let y = self.at(self.x.range.0, *mark).1;
            line(out, "grid", (left, y), (end, y));
            text(out, "end", (left - 8.0, y + 4.0), &number(*mark));
        }
        for mark in &self.x.marks {
            let x = self.at(*mark, self.y.range.0).0;
            line(out, "axis", (x, base), (x, base + 5.0));
            text(out, "middle", (x, base + 20.0), &number(*mark));
        }
        line(out, "axis", (left, base), (end, base));
        line(out, "axis", (left, top), (left, base));
        text(
            out,
            "middle",
            (f64::midpoint(left, end), HEIGHT - 14.0),
            &self.x.label,
        );
        let middle = f64::midpoint(top, base);
        let _ = writeln!(
            out,
            "<text class=\"ink\" text-anchor=\"middle\" transform=\"translate(18 {middle:.1}) rotate(-90)\">{}</text>",
            escape(&self.y.label)
        );
    }

    fn draw(&self, out: &mut String, series: &Series, colour: &str) {
        let points: Vec<(f64, f64)> = series.values.iter().map(|v| self.at(v.0, v.1)).collect();
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let dashes = match series.mark {
            Mark::Dashed => " stroke-dasharray=\"6 5\"",
            _ => "",
        };
        match series.mark {
            Mark::Line | Mark::Dashed => {
                let _ = writeln!(
                    out,
                    "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes} points=\"{}\"/>",
                    path.join(" ")
                );
            }
            Mark::Bars => {
                let base = self.at(self.x.range.0, self.y.range.0).1;
                for (x, y) in &points {
                    let height = base - y;
                    let _ = writeln!(
                        out,
                        "<rect fill=\"{colour}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"24\" height=\"{height:.1}\"/>",
                        x - 12.0
                    );
                }
            }
            Mark::Range => {
                for value in &series.values {
                    let ((x, from), (_, to)) =
                        (self.at(value.0, value.1), self.at(value.0, value.2));
                    let _ = writeln!(
                        out,
                        "<line stroke=\"{colour}\" stroke-width=\"3\" stroke-opacity=\"0.5\" x1=\"{x:.1}\" y1=\"{from:.1}\" \
                         x2=\"{x:.1}\" y2=\"{to:.1}\"/>"
                    );
                }
            }
        }
        // Many points would hide the line.
        if series.mark == Mark::Line && points.len() <= 30 {
            for (x, y) in points {
                let _ = writeln!(
                    out,
                    "<circle fill=\"{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>"
                );
            }
        }
    }

    fn legend(&self, out: &mut String, n: usize, series: &Series, colour: &str) {
        let (x, y) = (MARGINS.0 + 16.0, MARGINS.2 + 14.0 + 18.0 * n as f64);
        let dashes = match series.mark {
            Mark::Dashed => " stroke-dasharray=\"6 5\"",
            _ => "",
        };
        let _ = writeln!(
            out,
            "<line stroke=\"{colour}\" stroke-width=\"3\"{dashes} x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>",
            x + 24.0
        );
        text(out, "start", (x + 32.0, y + 4.0), &series.name);
    }
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn text(out: &mut String, anchor: &str, at: (f64, f64), words: &str) {
    let _ = writeln!(
        out,
        "<text class=\"ink\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        at.0,
        at.1,
        escape(words)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Thousands set apart, and no more decimals than there are.
fn number(value: f64) -> String {
    if value < 1_000.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let head = digits.len() % 3;
    let (first, rest) = digits.split_at(if head == 0 { 3 } else { head });
    rest.as_bytes()
        .chunks(3)
        .fold(first.to_string(), |all, three| {
            all + "," + &String::from_utf8_lossy(three)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_axes_marks_and_all_values() {
        let figure = Figure {
            title: "a < b".into(),
            x: Axis::log("peers", vec![10.0, 100.0, 1_000.0]),
            y: Axis::linear("hops", vec![0.0, 5.0, 10.0]),
            series: vec![
                Series::new(
                    "mean",
                    Mark::Line,
                    [(10.0, 2.0), (100.0, 4.0), (1_000.0, 6.0)],
                ),
                Series::range("1st to 99th", [(100.0, 1.0, 8.0)]),
            ],
        };
        let svg = figure.svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b") && svg.contains(">1,000<"));
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(
            svg.contains("cx=\"374.0\""),
            "100 is half way from 10 to 1,000"
        );
    }

    #[test]
    fn numbers_are_set_in_thousands() {
        let written = [0.5, 10.0, 1_000.0, 12_345.0, 100_000.0].map(number);
        assert_eq!(written, ["0.5", "10", "1,000", "12,345", "100,000"]);
    }
}
