//! The window that slides: how many places it has, where they lie, and the sum at one of them.

use super::case::Case;
use super::html::{Section, decimal, grouped, heat, matrix, named, number, text};
use crate::report::html::escape;

/// Channels whose products are written out.
const SHOWN_CHANNELS: usize = 3;
/// Rows and columns that a drawing has at most, unless the window needs more.
const SHOWN: usize = 16;
/// Beyond this the cells would be too small to see.
const MOST_SHOWN: usize = 64;
/// Cells up to this many in a row hold their numbers.
const WITH_NUMBERS: usize = 12;

/// What padding is filled with.
const HATCH: &str = "<svg class=\"defs key\" aria-hidden=\"true\"><pattern id=\"hatch\" width=\"6\" height=\"6\" \
    patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
    <line class=\"hatch\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\"/></pattern></svg>";

pub(super) fn section(case: &Case) -> Section {
    let html = format!(
        "{HATCH}{}<div class=\"side-by-side\">{}{}</div>{}{}",
        arithmetic(case),
        input(case),
        output(case),
        sum(case),
        result(case)
    );
    Section { id: "window", title: "The window slides".to_owned(), html }
}

/// The sizes, as the lecture counts them.
fn arithmetic(case: &Case) -> String {
    let spec = &case.spec;
    let ([kh, kw], [dh, dw], [fh, fw], [sh, sw]) =
        (spec.kernel(), spec.dilation(), spec.dilated_kernel(), spec.stride());
    let (p, [rest_h, rest_w]) = (spec.padding(), spec.stride_remainder());
    let axes = [
        ("height", spec.in_height(), kh, dh, fh, [p.top, p.bottom], sh, rest_h, spec.out_height()),
        ("width", spec.in_width(), kw, dw, fw, [p.left, p.right], sw, rest_w, spec.out_width()),
    ];
    let mut html = "<div class=\"formulas\">".to_owned();
    for (axis, n, k, d, f, [before, after], s, rest, out) in axes {
        if d > 1 {
            html +=
                &format!("<p>{axis} of the dilated filter: F = d·(k − 1) + 1 = {d}·({k} − 1) + 1 = {f}</p>");
        }
        let (name, pads) = match before == after {
            true => ("2P", format!("2·{before}")),
            false => ("P + P′", format!("{before} + {after}")),
        };
        let left = match rest {
            0 => String::new(),
            1 => format!(", rounded down: the last of the padded {} is never seen", n + before + after),
            _ => {
                format!(", rounded down: the last {rest} of the padded {} are never seen", n + before + after)
            }
        };
        html += &format!(
            "<p>{axis}: (N − F + {name})/S + 1 = ({n} − {f} + {pads})/{s} + 1 = \
             <b><data id=\"out-{axis}\" value=\"{out}\">{out}</data></b>{left}</p>"
        );
    }
    let (filters, channels) = (spec.out_channels(), spec.group_in_channels());
    let groups = match spec.groups() {
        1 => String::new(),
        groups => {
            format!(" (in {groups} groups: a filter sees {channels} of {} channels)", spec.in_channels())
        }
    };
    let bias = if case.with_bias { " + 1" } else { "" };
    html += &format!(
        "<p>{filters} filters{groups} give {filters} maps; parameters: {filters}·({kh}·{kw}·{channels}{bias}) = {}; \
         multiply-adds: {}</p></div>",
        grouped(spec.parameters(case.with_bias) as u64),
        grouped(spec.macs())
    );
    html
}

/// The part of an axis that is drawn: first place and how many.
fn part(size: usize, centre: usize, at_least: usize) -> (usize, usize) {
    let len = at_least.max(SHOWN).min(MOST_SHOWN).min(size);
    (centre.saturating_sub(len / 2).min(size - len), len)
}

fn cell_size(len: usize) -> usize {
    (448 / len).clamp(7, 44)
}

/// A drawing of cells: what a value is (`None` in the padding) at a row and column.
fn cells(
    rows: (usize, usize),
    columns: (usize, usize),
    most: f64,
    numbers: Numbers,
    value: impl Fn(usize, usize) -> Option<f64>,
) -> String {
    let side = cell_size(rows.1.max(columns.1));
    let mut svg = String::new();
    for row in 0..rows.1 {
        for column in 0..columns.1 {
            let (x, y) = (column * side, row * side);
            let Some(value) = value(rows.0 + row, columns.0 + column) else {
                svg +=
                    &format!("<rect class=\"pad\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\"/>");
                continue;
            };
            let (class, share) = heat(value, most);
            svg += &format!(
                "<rect class=\"cell {class}\" fill-opacity=\"{:.3}\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\"/>",
                share / 100.0
            );
            if rows.1.max(columns.1) <= WITH_NUMBERS && value != 0.0 {
                let y = if numbers == Numbers::Middle { y + side / 2 + 4 } else { y + side - 5 };
                let text = decimal(value, if value.abs() < 9.995 { 2 } else { 0 });
                svg += &format!("<text class=\"in\" x=\"{}\" y=\"{y}\">{text}</text>", x + side / 2);
            }
        }
    }
    svg
}

/// Where the number of a cell stands: in its middle, or below it where something else is in the middle.
#[derive(Clone, Copy, PartialEq)]
enum Numbers {
    Middle,
    Below,
}

/// How much of a drawing's axes is shown, if not all.
fn shown(rows: (usize, usize), columns: (usize, usize), size: [usize; 2]) -> String {
    let axis = |name: &str, (first, len): (usize, usize), size: usize| {
        (len < size).then(|| format!("{name} {first} to {} of {size}", first + len - 1))
    };
    let parts = [axis("rows", rows, size[0]), axis("columns", columns, size[1])];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!(" Shown: {}.", parts.join(", ")) }
}

fn input(case: &Case) -> String {
    let spec = &case.spec;
    let (size, [fh, fw], [sh, sw], [dh, dw]) =
        (spec.padded_input(), spec.dilated_kernel(), spec.stride(), spec.dilation());
    let [_, y, x] = case.at;
    let (top, left) = (y * sh, x * sw);
    let rows = part(size[0], top + fh / 2, fh + sh);
    let columns = part(size[1], left + fw / 2, fw + sw);
    let channel = case.first_channel();
    let value = |row: usize, column: usize| case.padded(channel, row, column).map(f64::from);
    let places = || (0..rows.1).flat_map(|i| (0..columns.1).map(move |j| (rows.0 + i, columns.0 + j)));
    let most = places().filter_map(|(i, j)| value(i, j)).fold(0.0, |most: f64, x| most.max(x.abs()));
    let side = cell_size(rows.1.max(columns.1)) as f64;
    let (width, height) = (side * columns.1 as f64, side * rows.1 as f64);
    let at = |row: f64, column: f64| (side * (column - columns.0 as f64), side * (row - rows.0 as f64));
    let outline = |class: &str, top: usize, left: usize| {
        let (x, y) = at(top as f64, left as f64);
        let (width, height) = (side * fw as f64, side * fh as f64);
        format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width}\" height=\"{height}\"/>")
    };
    let mut svg = cells(rows, columns, most, Numbers::Below, value);
    // The places of the window, by their centres.
    for row in 0..spec.out_height() {
        for column in 0..spec.out_width() {
            let centre = [(row * sh) as f64 + fh as f64 / 2.0, (column * sw) as f64 + fw as f64 / 2.0];
            let (x, y) = at(centre[0], centre[1]);
            if (0.0..=width).contains(&x) && (0.0..=height).contains(&y) {
                svg += &format!(
                    "<circle class=\"place\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\"/>",
                    (side / 9.0).clamp(1.2, 3.5)
                );
            }
        }
    }
    let next = if x + 1 < spec.out_width() { Some(left + sw) } else { left.checked_sub(sw) };
    if let Some(next) = next {
        svg += &outline("next", top, next);
    }
    for (r, s) in (0..spec.kernel()[0]).flat_map(|r| (0..spec.kernel()[1]).map(move |s| (r, s))) {
        let (x, y) = at((top + r * dh) as f64, (left + s * dw) as f64);
        svg += &format!("<rect class=\"tap\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side}\" height=\"{side}\"/>");
    }
    svg += &outline("window", top, left);
    let apart = match [sh, sw] {
        [1, 1] => "a pixel".to_owned(),
        [a, b] if a == b => format!("{a} pixels"),
        _ => format!("{sh} pixels down and {sw} right"),
    };
    let dilated = match [dh, dw] {
        [1, 1] => String::new(),
        _ => format!(" Dilation {dh}×{dw}: the filter's weights meet only the framed cells."),
    };
    figure(
        [width, height],
        &svg,
        &format!(
            "Input channel {channel} with its padding (hatched), {}×{}. Dots are the centres of the window's places, {apart} \
             apart (the stride); the window stands at place ({y}, {x}), the dashed one is its neighbour.{dilated}{}",
            size[0],
            size[1],
            shown(rows, columns, size)
        ),
    )
}

fn output(case: &Case) -> String {
    let [o, y, x] = case.at;
    let size = [case.spec.out_height(), case.spec.out_width()];
    let (rows, columns) = (part(size[0], y, 0), part(size[1], x, 0));
    let value = |row: usize, column: usize| Some(case.given(&case.output, [o, row, column]));
    let places = || (0..rows.1).flat_map(|i| (0..columns.1).map(move |j| (rows.0 + i, columns.0 + j)));
    let most = places().filter_map(|(i, j)| value(i, j)).fold(0.0, |most: f64, x| most.max(x.abs()));
    let side = cell_size(rows.1.max(columns.1));
    let mut svg = cells(rows, columns, most, Numbers::Middle, value);
    svg += &format!(
        "<rect class=\"window\" x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\"/>",
        (x - columns.0) * side,
        (y - rows.0) * side
    );
    let caption = format!(
        "Activation map {o}, {}×{}, before any activation function. The framed value is the window's sum at ({y}, {x}).{}",
        size[0],
        size[1],
        shown(rows, columns, size)
    );
    figure([(columns.1 * side) as f64, (rows.1 * side) as f64], &svg, &caption)
}

fn figure([width, height]: [f64; 2], svg: &str, caption: &str) -> String {
    format!(
        "<figure class=\"drawing\"><svg viewBox=\"-2 -2 {} {}\" style=\"max-width:{}px\" role=\"img\" aria-label=\"{}\">\
         {svg}</svg>\
         <figcaption>{}</figcaption></figure>",
        width + 4.0,
        height + 4.0,
        width + 4.0,
        escape(caption),
        escape(caption)
    )
}

/// The products at the window's place.
fn sum(case: &Case) -> String {
    let [kh, kw] = case.spec.kernel();
    let channels = case.spec.group_in_channels();
    let shown = channels.min(SHOWN_CHANNELS);
    let first = case.first_channel();
    let [o, y, x] = case.at;
    let mut html = format!("<h3>One sum, written out: filter {o} at ({y}, {x})</h3>");
    for channel in 0..shown {
        let term = |r: usize, s: usize| case.term(case.at, channel, r, s);
        html += &format!(
            "<div class=\"flow\">{}<span class=\"op\">⊙</span>{}<span class=\"op\">=</span>{}\
             <span class=\"op\">Σ = <b>{}</b></span></div>",
            matrix(&format!("input channel {}", first + channel), kh, kw, |r, s| term(r, s).pixel),
            matrix(&format!("filter {o}, channel {channel}"), kh, kw, |r, s| term(r, s).weight),
            matrix("products", kh, kw, |r, s| term(r, s).pixel * term(r, s).weight),
            number(case.channel_sum(case.at, channel))
        );
    }
    let mut parts: Vec<String> = (0..shown).map(|c| signed(case.channel_sum(case.at, c))).collect();
    if shown < channels {
        let rest = (shown..channels).map(|c| case.channel_sum(case.at, c)).sum();
        let which = match channels - shown {
            1 => format!("channel {shown}"),
            _ => format!("channels {shown} to {} together", channels - 1),
        };
        parts.push(format!("{} <span class=\"faint\">({which})</span>", signed(rest)));
    }
    if case.with_bias {
        parts.push(format!("{} <span class=\"faint\">(bias)</span>", signed(case.bias(o))));
    }
    html + &format!(
        "<p class=\"result\">{} = <b>{}</b></p>",
        parts.join(" ").trim_start_matches("+ "),
        named("sum", case.sum(case.at))
    )
}

/// With its sign apart, as a summand.
fn signed(value: f64) -> String {
    let sign = if value < 0.0 { "−" } else { "+" };
    format!("{sign} <data value=\"{value}\">{}</data>", text(value.abs()))
}

fn result(case: &Case) -> String {
    let (given, sum) = (case.given(&case.output, case.at), case.sum(case.at));
    format!(
        "<p>The sum above is in float64; the kernel <code>{}</code> computes in f32 and gave {} here, which differs by {}. \
         Of its output {} values were compared with the definition, all within the bound that the kernel promises.</p>",
        escape(&case.kernel),
        named("given", given),
        named("sum-difference", (given - sum).abs()),
        grouped(case.compared as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_the_window() {
        assert_eq!(part(10, 9, 3), (0, 10));
        assert_eq!(part(226, 0, 3), (0, 16));
        assert_eq!(part(226, 225, 3), (210, 16));
        assert_eq!(part(226, 100, 30), (85, 30));
        assert_eq!(part(2000, 1000, 900), (968, 64));
    }
}
