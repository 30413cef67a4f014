//! Plots in logarithmic axes, as SVG.

use std::fmt::Write;
use std::ops::RangeInclusive;

use crate::report::document::{Class, Line, Plot, PointStyle};
use crate::report::html::{class_name, escape};
use crate::report::numbers::{digits, short};

/// The drawing's extents, in units that a narrow screen shows at about 0.7 pixels.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 400.0;
/// The frame of the plot within it; right of it stand the names of lines.
const LEFT: f64 = 56.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 344.0;
/// Height of a line of text.
const LINE: f64 = 15.0;
/// Width of a letter, about.
const LETTER: f64 = 7.0;

/// A logarithmic axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

/// What an axis can reach: far beyond what anything measured is.
const RANGE: RangeInclusive<f64> = 1e-30..=1e30;

impl Axis {
    /// Over some positive values, with a margin; `None` without any.
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Option<Self> {
        let values = values.filter(|value| *value > 0.0 && value.is_finite());
        let values = values.map(|value| value.clamp(*RANGE.start(), *RANGE.end()));
        let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        let margin = (high / low).powf(0.06).max(1.3);
        (high > 0.0).then(|| Axis { low: low / margin, high: high * margin, from, to })
    }

    /// Where a value is; at the axis's end if it lies beyond.
    fn at(&self, value: f64) -> f64 {
        let value = value.max(self.low).min(self.high);
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + share * (self.to - self.from)
    }

    fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Round values, as many as have room of so many units each.
    fn ticks(&self, room: f64) -> Vec<f64> {
        let digits: [&[f64]; 3] = [&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let ticks = |of: &[f64], every: usize| -> Vec<f64> {
            let all = decades
                .clone()
                .step_by(every)
                .flat_map(|decade| of.iter().map(move |d| d * 10f64.powi(decade)));
            all.filter(|tick| self.holds(*tick)).collect()
        };
        let fits =
            |ticks: &[f64]| ticks.windows(2).all(|pair| (self.at(pair[1]) - self.at(pair[0])).abs() >= room);
        let dense = digits.iter().map(|of| ticks(of, 1)).find(|ticks| fits(ticks));
        dense
            .or_else(|| (2..20).map(|every| ticks(&[1.0], every)).find(|ticks| fits(ticks)))
            .unwrap_or_default()
    }
}

/// The plot; nothing where there is nothing to draw.
pub fn plot(of: &Plot) -> String {
    let lines = || of.lines.iter().flat_map(|line| line.points.iter().copied());
    let all = || of.points.iter().map(|point| point.at).chain(lines());
    let flat = of.roofs.iter().filter(|roof| !roof.rises).map(|roof| roof.name.as_str());
    let beside = flat.chain(of.lines.iter().map(|line| line.name.as_str()));
    let longest = beside.map(|name| trimmed(name).chars().count()).max().unwrap_or(0);
    let right = WIDTH - 12.0 - longest as f64 * LETTER;
    let heights = of.roofs.iter().filter(|roof| !roof.rises).map(|roof| roof.height);
    // Where roofs meet, if that is not too far from the points.
    let peak = heights.clone().fold(0.0, f64::max);
    let first = all().map(|at| at.0).filter(|x| *x > 0.0).fold(f64::INFINITY, f64::min);
    let meet = of.roofs.iter().filter(|roof| roof.rises).map(|roof| peak / roof.height);
    let meet = meet.filter(|x| (first / 12.0..first).contains(x));
    let Some(x) = Axis::over(all().map(|at| at.0).chain(meet), LEFT, right) else { return String::new() };
    let Some(y) = Axis::over(all().map(|at| at.1).chain(heights), BOTTOM, TOP) else { return String::new() };
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(&of.title));
    axes(&mut svg, of, &x, &y);
    let mut ends = roofs(&mut svg, of, &x, &y);
    for Line { name, class, points } in &of.lines {
        let path: Vec<String> =
            points.iter().map(|at| format!("{:.1},{:.1}", x.at(at.0), y.at(at.1))).collect();
        let _ = writeln!(
            svg,
            "<polyline class=\"line {}\" points=\"{}\"><title>{}</title></polyline>",
            class_name(*class),
            path.join(" "),
            escape(name)
        );
        for at in points {
            let label = format!("{name}: {} at {}", digits(at.1), digits(at.0));
            mark(&mut svg, (x.at(at.0), y.at(at.1)), *class, PointStyle::Row, &label);
        }
    }
    let of_lines = of.lines.iter().filter_map(|line| Some((line.points.last()?.1, &line.name)));
    ends.extend(of_lines.map(|(height, name)| (y.at(height) + 4.5, name.as_str())));
    names(&mut svg, ends, right + 6.0);
    for point in &of.points {
        mark(&mut svg, (x.at(point.at.0), y.at(point.at.1)), point.class, point.style, &point.label);
    }
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String, of: &Plot, x: &Axis, y: &Axis) {
    let right = x.to;
    let ticks = if of.ticks.is_empty() { x.ticks(38.0) } else { of.ticks.clone() };
    let mut free = f64::NEG_INFINITY;
    for tick in ticks {
        let (at, label) = (x.at(tick), short(tick));
        let _ = write!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>");
        let half = label.chars().count() as f64 * LETTER / 2.0;
        if at - half > free {
            let _ = write!(
                svg,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                BOTTOM + 17.0
            );
            free = at + half + 4.0;
        }
    }
    for tick in y.ticks(20.0) {
        let at = y.at(tick);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.5,
            short(tick)
        );
    }
    let _ = writeln!(
        svg,
        "<path class=\"frame\" d=\"M{LEFT} {TOP}V{BOTTOM}H{right}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (LEFT + right) / 2.0,
        HEIGHT - 16.0,
        escape(&of.x),
        (TOP + BOTTOM) / 2.0,
        escape(&of.y)
    );
}

/// Roofs, and the names of those that rise: where they begin. Gives the heights of the others.
fn roofs<'a>(svg: &mut String, of: &'a Plot, x: &Axis, y: &Axis) -> Vec<(f64, &'a str)> {
    let peak = of.roofs.iter().filter(|roof| !roof.rises).map(|roof| roof.height).fold(0.0, f64::max);
    let (mut flat, mut rising) = (Vec::new(), Vec::new());
    for roof in &of.roofs {
        let at = |x: f64| if roof.rises { roof.height * x } else { roof.height };
        // A rising roof ends where it meets the highest peak; no line leaves the frame.
        let from = if roof.rises { x.low.max(y.low / roof.height) } else { x.low };
        let to = if roof.rises { x.high.min(peak / roof.height).min(y.high / roof.height) } else { x.high };
        if from < to {
            let _ = writeln!(
                svg,
                "<path class=\"roof\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"><title>{}: {}</title></path>",
                x.at(from),
                y.at(at(from)),
                x.at(to),
                y.at(at(to)),
                escape(&roof.name),
                escape(&roof.detail)
            );
            let names = if roof.rises { &mut rising } else { &mut flat };
            names.push((y.at(at(from)), roof.name.as_str()));
        }
    }
    // Below the line: above it the next one may be near.
    rising.iter_mut().for_each(|(at, _)| *at += 14.0);
    names(svg, rising, LEFT + 5.0);
    flat.into_iter().map(|(at, name)| (at + 4.5, name)).collect()
}

/// Names at their heights, moved apart where they would cover each other.
fn names(svg: &mut String, mut names: Vec<(f64, &str)>, x: f64) {
    keep_apart(&mut names, TOP + LINE - 4.0, BOTTOM - 4.0);
    for (at, name) in names {
        let _ = writeln!(
            svg,
            "<text class=\"name\" x=\"{x:.1}\" y=\"{at:.1}\">{}</text>",
            escape(&trimmed(name))
        );
    }
}

/// A name that fits beside a plot.
fn trimmed(name: &str) -> String {
    const LONGEST: usize = 16;
    match name.chars().count() > LONGEST {
        true => name.chars().take(LONGEST - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

/// Moves names apart until none covers another, within limits as far as there is room.
fn keep_apart(names: &mut [(f64, &str)], top: f64, bottom: f64) {
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = top;
    for (at, _) in names.iter_mut() {
        *at = at.max(free);
        free = *at + LINE;
    }
    // What was pushed out at the bottom moves up again.
    let mut free = bottom;
    for (at, _) in names.iter_mut().rev() {
        *at = at.min(free);
        free = *at - LINE;
    }
}

/// A point in the shape of its class.
fn mark(svg: &mut String, (x, y): (f64, f64), class: Class, style: PointStyle, label: &str) {
    let (size, kind) = match style {
        PointStyle::Own => (4.0, "own"),
        PointStyle::Row => (3.5, "row"),
        PointStyle::Main => (6.0, "main"),
    };
    let corners = |of: &[(f64, f64)]| {
        let points: Vec<String> =
            of.iter().map(|(dx, dy)| format!("{:.1} {:.1}", x + dx * size, y + dy * size)).collect();
        format!("<path d=\"M{}Z\"", points.join("L"))
    };
    let shape = match class {
        Class::Direct => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size}\""),
        Class::Winograd => corners(&[(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)]),
        Class::Im2col => corners(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        Class::Pointwise => corners(&[(0.0, 1.2), (1.1, -0.9), (-1.1, -0.9)]),
        Class::Depthwise => corners(&[(-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)]),
        Class::Naive => corners(&[(-0.5, -1.2), (0.5, -1.2), (0.5, 1.2), (-0.5, 1.2)]),
        Class::Other => corners(&[(0.0, -1.0), (1.0, -0.3), (0.6, 0.9), (-0.6, 0.9), (-1.0, -0.3)]),
        Class::Peer(_) => corners(&[(0.0, -1.4), (1.2, 0.0), (0.0, 1.4), (-1.2, 0.0)]),
    };
    let _ = writeln!(
        svg,
        "{shape} class=\"mark {kind} {}\"><title>{}</title></{}>",
        class_name(class),
        escape(label),
        if class == Class::Direct { "circle" } else { "path" }
    );
}

/// A small drawing of a class's shape, for a legend.
pub fn key(class: Class) -> String {
    let mut svg = "<svg class=\"key\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">".to_owned();
    mark(&mut svg, (8.0, 8.0), class, PointStyle::Main, "");
    svg.replace("<title></title>", "") + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_have_room() {
        let axis = Axis { low: 0.8, high: 120.0, from: 0.0, to: 400.0 };
        assert_eq!(axis.ticks(60.0), [1.0, 3.0, 10.0, 30.0, 100.0]);
        assert_eq!(axis.ticks(20.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        let wide = Axis { low: 1e-9, high: 1e12, ..axis };
        let ticks = wide.ticks(38.0);
        assert!(
            ticks.len() > 3 && ticks.windows(2).all(|p| wide.at(p[1]) - wide.at(p[0]) >= 38.0),
            "{ticks:?}"
        );
        assert_eq!(Axis::over([0.0, f64::NAN, -1.0].into_iter(), 0.0, 1.0), None);
        // What no machine measures, but a file may claim.
        let absurd = Axis::over([f64::MIN_POSITIVE, 1.0, f64::MAX].into_iter(), 0.0, 400.0).unwrap();
        let ticks = absurd.ticks(38.0);
        assert!((2..12).contains(&ticks.len()), "{absurd:?} {ticks:?}");
        assert_eq!([absurd.at(-1.0), absurd.at(f64::MAX)], [0.0, 400.0]);
    }

    #[test]
    fn names_are_kept_apart() {
        let mut names = [(100.0, "a"), (101.0, "b"), (399.0, "c"), (398.0, "d")];
        keep_apart(&mut names, 10.0, 400.0);
        assert!(names.windows(2).all(|pair| pair[1].0 - pair[0].0 >= LINE - 1e-9), "{names:?}");
        assert!(names.iter().all(|(at, _)| (10.0..=400.0).contains(at)), "{names:?}");
    }
}
