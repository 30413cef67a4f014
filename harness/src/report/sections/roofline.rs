//! Speed over arithmetic intensity, under the machine's roofs.

use kernels::Isa;

use crate::gpu::Unit;
use crate::record::{Clock, Record};
use crate::report::document::{Block, Class, Plot, Point, PointStyle, RoofLine, Section};
use crate::report::numbers::{digits, time};
use crate::report::results::{CHOOSERS, Results};
use crate::report::sections::{class, of_settings, section, speed, text};

/// A plot for each setting whose rows hold roofs.
pub(super) fn roofline(results: &Results) -> Option<Section> {
    let mut blocks =
        of_settings(results, |setting| plot(results, setting).map(Block::Plot).into_iter().collect());
    if !blocks.is_empty() {
        let line = "Each point is a row: speed by the definition's arithmetic over floating-point operations per \
                    byte, input, weights and output counted once. Large points are auto and other libraries. \
                    Hollow points show rows whose algorithm does other arithmetic than the definition, by that \
                    arithmetic: they stay under the roofs, where the filled ones may pass them. Roofs are the \
                    highest of those measured beside the rows. Point at a mark to see what it is.";
        blocks.insert(0, text(line));
    }
    section("roofline", "Roofline", blocks)
}

fn plot(results: &Results, setting: usize) -> Option<Plot> {
    let mut points = Vec::new();
    let mut legend: Vec<(Class, String)> = Vec::new();
    let (mut peaks, mut levels) = (Vec::new(), Vec::new());
    for case in 0..results.cases.len() {
        for (id, row, ns) in results.ranked(case, setting) {
            let Some((x, y)) = row.intensity.filter(|x| *x > 0.0).zip(speed(row)) else { continue };
            if let Some(peak) = row.peak_gflops {
                keep_highest(&mut peaks, isa(row), peak);
            }
            if let Some((name, rate)) = row.bandwidth_level.clone().zip(row.bandwidth_gb_s) {
                keep_highest(&mut levels, name, rate);
            }
            let label = format!(
                "{}: {}, {}, {} GFLOP/s",
                results.cases[case].label,
                if results.id(id) == row.kernel {
                    row.kernel.clone()
                } else {
                    format!("{} = {}", results.id(id), row.kernel)
                },
                time(ns),
                digits(y)
            );
            let class = class(results, row);
            if !legend.iter().any(|(known, _)| *known == class) {
                legend.push((class, class_title(class, results.id(id))));
            }
            let main = CHOOSERS.contains(&results.id(id)) || results.contestants[id].is_peer();
            if let Some(own) = row.own_gflops.filter(|own| *own > 0.0 && own.is_finite()) {
                let label = format!("{label}; {} by its own arithmetic", digits(own));
                points.push(Point { at: (x * own / y, own), class, style: PointStyle::Own, label });
            }
            let style = if main { PointStyle::Main } else { PointStyle::Row };
            points.push(Point { at: (x, y), class, style, label });
        }
    }
    if points.is_empty() || peaks.is_empty() {
        return None;
    }
    legend.sort();
    // What matters most is drawn last.
    points.sort_by_key(|point| point.style);
    let rate = |(name, height): (String, f64), rises| {
        let unit = if rises { "GB/s" } else { "GFLOP/s" };
        RoofLine { name, detail: format!("{} {unit}", digits(height)), height, rises }
    };
    let roofs = peaks.into_iter().map(|peak| rate(peak, false));
    let roofs = roofs.chain(levels.into_iter().map(|level| rate(level, true))).collect();
    Some(Plot {
        title: format!("Roofline, {}", results.settings[setting].label()),
        x: "floating-point operations per byte".to_owned(),
        y: "GFLOP/s".to_owned(),
        roofs,
        points,
        lines: Vec::new(),
        ticks: Vec::new(),
        legend,
    })
}

fn class_title(class: Class, id: &str) -> String {
    match class {
        Class::Naive => "naive",
        Class::Im2col => "im2col",
        Class::Direct => "direct",
        Class::Winograd => "winograd",
        Class::Pointwise => "pointwise",
        Class::Depthwise => "depthwise",
        Class::Other => "other of ours",
        Class::Peer(_) => id,
    }
    .to_owned()
}

/// The instruction set, or the part of a GPU, whose peak a row is held against.
fn isa(row: &Record) -> String {
    if row.clock == Clock::Device {
        return format!("GPU {}", Unit::of(row).name());
    }
    let own = row.kernel.rsplit_once('/').map(|(_, isa)| isa);
    let known = own.filter(|own| Isa::ALL.iter().any(|isa| isa.name() == *own));
    // Whatever is not of one instruction set is held against the best of the machine.
    let best = row.run.as_ref().and_then(|run| run.isas.last().cloned());
    known.map(str::to_owned).or(best).unwrap_or_else(|| "peak".to_owned())
}

fn keep_highest(all: &mut Vec<(String, f64)>, name: String, value: f64) {
    if !(value > 0.0 && value.is_finite()) {
        return;
    }
    match all.iter_mut().find(|(known, _)| *known == name) {
        Some((_, highest)) => *highest = highest.max(value),
        None => all.push((name, value)),
    }
}
