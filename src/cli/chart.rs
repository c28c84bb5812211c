//! Charts of pages: a scatter of cost against time, and bars.
//!
//! In: points, shares of the greatest value. Out: HTML and SVG without a script.
//!
//! Invariant: axes and bars begin at zero, but for spans; labels are escaped by who gives them, but for those that are made here.

use crate::report::escape;

/// How pages with charts look, light, dark, narrow and printed: they stand alone.
pub const STYLE: &str = include_str!("page.css");

/// Of the scatter, in its own units.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 18.0;

/// Points that have numbers beside them; of more only those on the front.
const NUMBERED: usize = 40;

/// Points of days and dollars, each with its number from 0 and its name, and the front of what none beats in both.
pub fn scatter(points: &[(usize, f64, f64)], name: impl Fn(usize) -> String) -> String {
    let most = |get: fn(&(usize, f64, f64)) -> f64| points.iter().map(get).fold(0.0, f64::max) * 1.06;
    let (x_step, y_step) = (step(most(|point| point.1)), step(most(|point| point.2)));
    let (x_most, y_most) = (most(|point| point.1).max(x_step), most(|point| point.2).max(y_step));
    let x = |days: f64| LEFT + days / x_most * (WIDTH - LEFT - RIGHT);
    let y = |usd: f64| HEIGHT - BOTTOM - usd / y_most * (HEIGHT - BOTTOM - TOP);
    let front = front(points);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Cost against days\">");
    for tick in (0..).map(|n| f64::from(n) * y_step).take_while(|tick| *tick <= y_most) {
        let (at, words) = (y(tick), if tick == 0.0 { "$0".to_owned() } else { dollars(tick) });
        svg += &format!("<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - RIGHT);
        svg += &format!(
            "<text class=\"dim\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{words}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for tick in (0..).map(|n| f64::from(n) * x_step).take_while(|tick| *tick <= x_most) {
        let digits = usize::from(x_step < 1.0);
        let below = HEIGHT - BOTTOM + 16.0;
        svg += &format!(
            "<text class=\"dim\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{below}\">{tick:.digits$}</text>",
            x(tick)
        );
    }
    svg += &format!(
        "<text class=\"dim\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">days</text>",
        (LEFT + WIDTH) / 2.0,
        HEIGHT - 6.0
    );
    let path: Vec<String> = front.iter().map(|&at| format!("{:.1},{:.1}", x(points[at].1), y(points[at].2))).collect();
    svg += &format!("<polyline class=\"front\" points=\"{}\"/>", path.join(" "));
    // Points that lie on one another share a label.
    let mut numbers: Vec<(f64, f64, String)> = Vec::new();
    // The front lies on top.
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|place| front.contains(place));
    for place in order {
        let ((at, days, usd), on) = (&points[place], front.contains(&place));
        let (px, py, class) = (x(*days), y(*usd), if on { " class=\"on\"" } else { "" });
        let title = format!("{} {}: {} in {days:.1} days", at + 1, escape(&name(*at)), dollars(*usd));
        svg += &format!("<circle{class} cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"5\"><title>{title}</title></circle>");
        if on || points.len() <= NUMBERED {
            let near = |(x, y, _): &&mut (f64, f64, String)| (px - x).abs() < 14.0 && (py - y).abs() < 10.0;
            match numbers.iter_mut().find(near) {
                Some((_, _, others)) => *others += &format!(", {}", at + 1),
                None => numbers.push((px, py, (at + 1).to_string())),
            }
        }
    }
    for (px, py, number) in numbers {
        svg += &format!("<text x=\"{:.1}\" y=\"{:.1}\">{number}</text>", px + 7.0, py - 5.0);
    }
    svg + "</svg>"
}

/// Dollars in three digits and a letter.
pub fn dollars(dollars: f64) -> String {
    let (scale, letter) = [(1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find(|(scale, _)| dollars >= 0.9995 * scale)
        .unwrap_or((1.0, ""));
    let scaled = dollars / scale;
    let digits = if scaled >= 99.95 { 0 } else { 2 - usize::from(scaled >= 9.995) };
    format!("${scaled:.digits$}{letter}")
}

/// Between ticks: 1, 2 or 5 times a power of ten, so that there are at most six.
fn step(most: f64) -> f64 {
    let least = most.max(f64::MIN_POSITIVE) / 6.0;
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|of| of * power).into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// The places of points that no other beats in days and dollars, fastest first.
fn front(points: &[(usize, f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| points[a].1.total_cmp(&points[b].1).then(points[a].2.total_cmp(&points[b].2)));
    let mut least = f64::INFINITY;
    order.retain(|&at| {
        let on = points[at].2 < least;
        least = least.min(points[at].2);
        on
    });
    order
}

/// Bars below each other, each with a label before and a value behind it.
#[derive(Default)]
pub struct Bars(String);

impl Bars {
    /// A bar of parts, each with its colour and its share of the whole width, and marks.
    pub fn add(&mut self, label: &str, parts: &[(usize, f64)], marks: &[f64], value: &str) {
        let parts: String = parts
            .iter()
            .map(|(colour, share)| format!("<i class=\"c{colour}\" style=\"width:{:.2}%\"></i>", 100.0 * share))
            .collect();
        self.push(label, &(parts + &marks.iter().map(|share| marked(*share)).collect::<String>()), value);
    }

    /// A bar from a share of the whole width to another, and a mark.
    pub fn add_span(&mut self, label: &str, [from, to]: [f64; 2], mark: f64, value: &str) {
        let (before, width) = (100.0 * from, 100.0 * (to - from));
        let span = format!("<i style=\"width:{before:.2}%\"></i><i class=\"c1\" style=\"width:{width:.2}%\"></i>");
        self.push(label, &(span + &marked(mark)), value);
    }

    fn push(&mut self, label: &str, bar: &str, value: &str) {
        self.0 += &format!(
            "<div class=\"label\">{label}</div><div class=\"bar\">{bar}</div><div class=\"value\">{value}</div>\n"
        );
    }

    /// All of them.
    pub fn html(self) -> String {
        format!("<div class=\"bars\">{}</div>", self.0)
    }
}

fn marked(share: f64) -> String {
    format!("<b style=\"left:calc({:.2}% - 2px)\"></b>", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_no_point_beats() {
        let points = [(0, 3.0, 1.0), (1, 1.0, 9.0), (2, 2.0, 9.5), (3, 2.0, 4.0), (4, 4.0, 2.0)];
        assert_eq!(front(&points), [1, 3, 0]);
    }

    #[test]
    fn ticks_are_round_and_few() {
        for most in [0.3, 7.0, 59.0, 61.0, 1.2e6] {
            let step = step(most);
            assert!((1.5..=6.0001).contains(&(most / step)), "{most} {step}");
        }
        assert_eq!(step(60.0), 10.0);
    }
}
