//! Plots as inline SVG: no script, no font, nothing fetched.

use std::fmt::Write as _;

/// Fill colours, distinguishable without colour vision too (Okabe and Ito, 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A drawing area with axes: both in logarithms.
pub struct Axes {
    pub width: f64,
    pub height: f64,
    pub x: (f64, f64),
    pub y: (f64, f64),
}

const LEFT: f64 = 62.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 16.0;

impl Axes {
    fn at_x(&self, value: f64) -> f64 {
        LEFT + (self.width - LEFT - RIGHT) * along(value, self.x)
    }

    fn at_y(&self, value: f64) -> f64 {
        self.height - BOTTOM - (self.height - TOP - BOTTOM) * along(value, self.y)
    }
}

fn along(value: f64, (low, high): (f64, f64)) -> f64 {
    (value / low).ln() / (high / low).ln().max(f64::MIN_POSITIVE)
}

/// The range of some values with a margin on both sides.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| *value > 0.0)
        .fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), v| (low.min(v), high.max(v)));
    if low > high { (1.0, 10.0) } else { (low / 1.15, high * 1.15) }
}

/// A point of a plot.
pub struct Mark {
    pub x: f64,
    pub y: f64,
    pub series: usize,
    pub ringed: bool,
    pub label: String,
}

/// Fewer ticks than this leave a reader without a scale.
const TICKS: usize = 3;

/// Values of 1, 2 and 5 times a power of ten inside a range, thinned to the powers where there are many; in a range that
/// is too narrow for them, the multiples of such a value.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let finer = ((high - low).log10().floor() as i32 - 1)..;
    let steps = finer.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    let all: Vec<f64> = decades
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
        .filter(|value| (low..=high).contains(value))
        .collect();
    if all.len() < TICKS {
        // The first step that gives no more than twice as many as are wanted.
        let step = steps.into_iter().find(|step| (high - low) / step <= 2.0 * TICKS as f64).unwrap_or(high - low);
        ((low / step).ceil() as i64..=(high / step).floor() as i64).map(|count| count as f64 * step).collect()
    } else if all.len() > 8 {
        all.into_iter().filter(|value| (value.log10() - value.log10().round()).abs() < 1e-9).collect()
    } else {
        all
    }
}

/// A value with as many digits as a step beside it needs.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        // Sums of steps end in many digits: three decimals are more than any tick has.
        value => format!("{}", (value * 1e3).round() / 1e3),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn frame(svg: &mut String, axes: &Axes, title: &str, x_label: &str, y_label: &str) {
    let (width, height) = (axes.width, axes.height);
    let _ = write!(
        svg,
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{}\">",
        escaped(title)
    );
    for tick in ticks(axes.y) {
        let y = axes.at_y(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            width - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            number(tick)
        );
    }
    let (middle, below) = ((TOP + height - BOTTOM) / 2.0, height - 6.0);
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
         <text class=\"label\" x=\"{:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>\
         <text class=\"label\" transform=\"translate(14 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        width - RIGHT,
        height - BOTTOM,
        height - BOTTOM,
        (LEFT + width - RIGHT) / 2.0,
        escaped(x_label),
        escaped(y_label)
    );
}

fn x_tick(svg: &mut String, axes: &Axes, x: f64, text: &str) {
    let y = axes.height - BOTTOM + 16.0;
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", escaped(text));
}

fn dot(svg: &mut String, x: f64, y: f64, mark: &Mark) {
    let colour = COLOURS[mark.series % COLOURS.len()];
    let _ = write!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.75\"><title>{}</title></circle>",
        escaped(&mark.label)
    );
    if mark.ringed {
        let _ = write!(svg, "<circle class=\"ring\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"8\"/>");
    }
}

/// Time against one field of the schedule: a column per value, its marks side by side by series if so wanted, a line
/// through the fastest of each column.
pub fn strip(field: &str, levels: &[String], marks: &[Mark], side_by_side: bool, floor: Option<f64>) -> String {
    let y = range(marks.iter().map(|mark| mark.y).chain(floor));
    let axes = Axes { width: 440.0, height: 300.0, x: (1.0, 10.0), y };
    let mut svg = String::new();
    frame(&mut svg, &axes, &format!("time against {field}"), field, "time, µs");
    let step = (axes.width - LEFT - RIGHT) / levels.len().max(1) as f64;
    let column = |level: f64| LEFT + step * (level + 0.5);
    let series = marks.iter().map(|mark| mark.series).max().unwrap_or(0) + 1;
    let mut best = Vec::new();
    for (level, name) in levels.iter().enumerate() {
        x_tick(&mut svg, &axes, column(level as f64), name);
        let here = marks.iter().filter(|mark| mark.x as usize == level).map(|mark| mark.y);
        let least = here.fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            best.push(format!("{:.1},{:.1}", column(level as f64), axes.at_y(least)));
        }
    }
    let _ = write!(svg, "<polyline class=\"best\" points=\"{}\"/>", best.join(" "));
    if let Some(floor) = floor {
        let (x, y) = (axes.width - RIGHT, axes.at_y(floor));
        let _ = write!(
            svg,
            "<line class=\"floor\" x1=\"{LEFT}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">floor</text>",
            x - 2.0,
            y - 4.0
        );
    }
    for mark in marks {
        let offset = if side_by_side { (mark.series as f64 + 0.5) / series as f64 - 0.5 } else { 0.0 };
        dot(&mut svg, column(mark.x) + offset * step * 0.6, axes.at_y(mark.y), mark);
    }
    svg.push_str("</svg>");
    svg
}

/// Rate against intensity under a memory slope and flat roofs.
pub fn roofline(marks: &[Mark], bytes_per_second: f64, roofs: &[(String, f64)]) -> String {
    let top = roofs.iter().map(|(_, roof)| *roof).fold(0.0, f64::max);
    let knee = top * 1e12 / bytes_per_second;
    // Flat long enough, and with room above, for the roofs' names.
    let x = range(marks.iter().map(|mark| mark.x).chain([knee / 4.0, knee * 16.0]));
    let y = range(marks.iter().map(|mark| mark.y).chain([top * 2.0]));
    let axes = Axes { width: 640.0, height: 340.0, x, y };
    let mut svg = String::new();
    frame(&mut svg, &axes, "roofline", "matrix work per byte that must move, FLOP/B", "TFLOP/s");
    for tick in ticks(axes.x) {
        x_tick(&mut svg, &axes, axes.at_x(tick), &number(tick));
    }
    let slope = |x: f64| x * bytes_per_second / 1e12;
    let first = (axes.y.0 / slope(1.0)).max(axes.x.0);
    let _ = write!(
        svg,
        "<polyline class=\"roof\" points=\"{:.1},{:.1} {:.1},{:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">memory {:.1} TB/s</text>",
        axes.at_x(first),
        axes.at_y(slope(first)),
        axes.at_x(knee.min(axes.x.1)),
        axes.at_y(slope(knee.min(axes.x.1))),
        // Beneath the line, which rises to the right.
        axes.at_x(first * (knee / first).powf(0.3)) + 4.0,
        axes.at_y(slope(first * (knee / first).powf(0.3))) + 16.0,
        bytes_per_second / 1e12
    );
    for (name, roof) in roofs {
        // The highest has its name above it, the others beneath.
        let below = if *roof < top { 14.0 } else { -5.0 };
        let (from, y) = (axes.at_x((roof * 1e12 / bytes_per_second).max(axes.x.0)), axes.at_y(*roof));
        let end = axes.width - RIGHT;
        let _ = write!(
            svg,
            "<line class=\"roof\" x1=\"{from:.1}\" x2=\"{end:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{end:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} {roof:.0}</text>",
            y + below,
            escaped(name)
        );
    }
    for mark in marks {
        dot(&mut svg, axes.at_x(mark.x), axes.at_y(mark.y), mark);
    }
    svg.push_str("</svg>");
    svg
}

/// Horizontal bars with their counts.
pub fn bars(rows: &[(String, usize)]) -> String {
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    let (width, row_height) = (440.0, 30.0);
    let height = rows.len() as f64 * row_height + 8.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"rejected by reason\">"
    );
    for (index, (name, count)) in rows.iter().enumerate() {
        let y = index as f64 * row_height + 4.0;
        let long = (width - 170.0) * *count as f64 / most;
        let _ = write!(
            svg,
            "<text x=\"100\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"108\" y=\"{y:.1}\" width=\"{long:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{count}</text>",
            y + 17.0,
            escaped(name),
            row_height - 6.0,
            COLOURS[0],
            114.0 + long,
            y + 17.0
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Coloured names, one per series.
pub fn legend(field: &str, names: &[String]) -> String {
    let mut html = format!("<p class=\"legend\">{}: ", escaped(field));
    for (series, name) in names.iter().enumerate() {
        let colour = COLOURS[series % COLOURS.len()];
        let _ = write!(html, "<span><i style=\"background:{colour}\"></i>{}</span> ", escaped(name));
    }
    html.push_str("<span><i class=\"won\"></i>winner</span></p>");
    html
}
