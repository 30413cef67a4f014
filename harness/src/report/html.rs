//! A page in HTML that needs nothing but itself.

use std::fmt::Write;

use crate::record::{Clock, Gradient, Precision};
use crate::report::document::{Bars, Block, Cell, Class, Document, Fold, Mark, Plot, Stacks, Table, Warning};
use crate::report::numbers::digits;
use crate::report::results::Setting;
use crate::report::svg;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Text that means itself, in content and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The class of the style sheet for an engine's colour.
pub fn class_name(class: Class) -> &'static str {
    const PEERS: [&str; 3] = ["c-peer", "c-peer2", "c-peer3"];
    match class {
        Class::Naive => "c-naive",
        Class::Im2col => "c-im2col",
        Class::Direct => "c-direct",
        Class::Winograd => "c-winograd",
        Class::Pointwise => "c-pointwise",
        Class::Depthwise => "c-depthwise",
        Class::Other => "c-other",
        Class::Peer(index) => PEERS[index % PEERS.len()],
    }
}

// Writing to a String cannot fail.
macro_rules! put {
    ($page:expr, $($arguments:tt)*) => {{ let _ = write!($page, $($arguments)*); }};
}

/// The page.
pub fn page(document: &Document) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<header>\n<h1>{}</h1>\n<p class=\"about\">{}</p>\n",
        escape(&document.title),
        escape(&document.title),
        escape(&document.subtitle)
    );
    put!(page, "<ul class=\"verdict\">\n");
    for verdict in &document.verdict {
        put!(page, "<li>{}</li>\n", escape(verdict));
    }
    put!(page, "</ul>\n");
    for warning in &document.warnings {
        self::warning(&mut page, warning);
    }
    put!(page, "</header>\n");
    navigation(&mut page, document);
    put!(page, "<main>\n");
    for section in &document.sections {
        put!(page, "<section id=\"{}\">\n<h2>{}</h2>\n", section.id, escape(&section.title));
        blocks(&mut page, &section.blocks);
        put!(page, "</section>\n");
    }
    put!(page, "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

/// Links to sections and layers; the script adds the choice of settings.
fn navigation(page: &mut String, document: &Document) {
    put!(page, "<nav>\n<div class=\"settings\" hidden data-settings=\"");
    let settings: Vec<String> =
        document.settings.iter().map(|of| format!("{}={}", setting_key(*of), setting_name(*of))).collect();
    put!(page, "{}\"></div>\n<ul>\n", escape(&settings.join(";")));
    for section in &document.sections {
        put!(page, "<li><a href=\"#{}\">{}</a>", section.id, escape(&section.title));
        let folds: Vec<&Fold> = section
            .blocks
            .iter()
            .filter_map(|block| match block {
                Block::Fold(fold) if !fold.id.is_empty() => Some(fold),
                _ => None,
            })
            .collect();
        if !folds.is_empty() {
            put!(page, "\n<ul>\n");
            for fold in folds {
                put!(page, "<li><a href=\"#{}\">{}</a></li>\n", escape(&fold.id), escape(&fold.title));
            }
            put!(page, "</ul>\n");
        }
        put!(page, "</li>\n");
    }
    put!(page, "</ul>\n</nav>\n");
}

fn setting_key(of: Setting) -> String {
    let precision = of.precision.map_or("", Precision::name);
    let gradient = of.gradient.map_or("", Gradient::name);
    format!("{}-{}{precision}{gradient}", of.threads, of.clock.name())
}

fn setting_name(of: Setting) -> String {
    let precision = of.precision.map_or_else(String::new, |precision| format!(" {}", precision.name()));
    let gradient = of.gradient.map_or_else(String::new, |gradient| format!(" {}", gradient.name()));
    match of.clock {
        Clock::Warm | Clock::Cold => format!("{}T {}{precision}{gradient}", of.threads, of.clock.name()),
        Clock::Device => format!("GPU{precision}{gradient}"),
    }
}

fn blocks(page: &mut String, of: &[Block]) {
    let mut rest = of;
    while let Some((block, after)) = rest.split_first() {
        rest = after;
        match block {
            Block::Text(text) => put!(page, "<p>{}</p>\n", escape(text)),
            Block::Warning(of) => warning(page, of),
            Block::Code(code) => put!(page, "<pre><code>{}</code></pre>\n", escape(code)),
            Block::Facts(facts) => {
                put!(page, "<dl>\n");
                for (name, value) in facts {
                    put!(page, "<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value));
                }
                put!(page, "</dl>\n");
            }
            Block::Table(of) => table(page, of),
            Block::Bars(of) => bars(page, of),
            Block::Stacks(of) => stacks(page, of),
            Block::Plot(of) => plot(page, of),
            Block::Of(..) => {
                // Neighbours lie side by side where there is room.
                let more = after.iter().take_while(|block| matches!(block, Block::Of(..))).count();
                settings(page, &of[of.len() - after.len() - 1..of.len() - after.len() + more]);
                rest = &after[more..];
            }
            Block::Fold(of) => fold(page, of),
        }
    }
}

fn warning(page: &mut String, of: &Warning) {
    let wrong = if of.wrong { " is-wrong" } else { "" };
    put!(page, "<p class=\"warning{wrong}\">{}</p>\n", escape(&of.text));
}

fn settings(page: &mut String, of: &[Block]) {
    let narrow = of.iter().all(|block| matches!(block, Block::Of(_, inner) if inner.iter().all(is_narrow)));
    put!(page, "<div class=\"of-settings{}\">\n", if narrow { " side-by-side" } else { "" });
    for block in of {
        let Block::Of(setting, inner) = block else { continue };
        put!(
            page,
            "<div class=\"of\" data-setting=\"{}\">\n<h3>{}</h3>\n",
            setting_key(*setting),
            setting.label()
        );
        blocks(page, inner);
        put!(page, "</div>\n");
    }
    put!(page, "</div>\n");
}

/// Whether two of a block fit beside each other on a wide screen.
fn is_narrow(block: &Block) -> bool {
    match block {
        Block::Table(table) => table.heads.len() <= 4,
        Block::Bars(_) | Block::Stacks(_) | Block::Of(..) | Block::Fold(_) => false,
        _ => true,
    }
}

fn fold(page: &mut String, of: &Fold) {
    let id = if of.id.is_empty() { String::new() } else { format!(" id=\"{}\"", escape(&of.id)) };
    let open = if of.open { " open" } else { "" };
    put!(page, "<details{id}{open}>\n<summary><b>{}</b>", escape(&of.title));
    if !of.detail.is_empty() {
        put!(page, " <span>{}</span>", escape(&of.detail));
    }
    put!(page, "</summary>\n");
    blocks(page, &of.blocks);
    put!(page, "</details>\n");
}

fn table(page: &mut String, of: &Table) {
    let kind = |column: usize| if column == 0 || of.words.contains(&column) { " class=\"w\"" } else { "" };
    put!(page, "<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>");
    for (column, head) in of.heads.iter().enumerate() {
        put!(page, "<th scope=\"col\"{}>{}</th>", kind(column), escape(head));
    }
    put!(page, "</tr></thead>\n<tbody>\n");
    for row in &of.rows {
        put!(page, "<tr>");
        for (column, cell) in row.iter().enumerate() {
            self::cell(page, cell, column == 0, of.words.contains(&column));
        }
        put!(page, "</tr>\n");
    }
    put!(page, "</tbody>\n</table></div>\n");
}

/// Letters from which on words in a cell may be broken into lines.
const LONG: usize = 36;

fn cell(page: &mut String, of: &Cell, first: bool, words: bool) {
    let mut classes: Vec<&str> = if first || words { vec!["w"] } else { Vec::new() };
    if (first || words) && of.text.chars().count() > LONG {
        classes.push("long");
    }
    match of.mark {
        Mark::None => {}
        Mark::Best => classes.push("best"),
        Mark::Faint => classes.push("faint"),
        Mark::Wrong => classes.push("wrong"),
        Mark::Sum => classes.push("sum"),
    }
    if of.share.is_some() {
        classes.push("share");
    }
    let tag = if first { "th scope=\"row\"" } else { "td" };
    put!(page, "<{tag}");
    if !classes.is_empty() {
        put!(page, " class=\"{}\"", classes.join(" "));
    }
    if let Some(share) = of.share {
        put!(page, " style=\"--share:{:.0}%\"", 100.0 * share.clamp(0.0, 1.0));
    }
    if let Some(hint) = &of.hint {
        put!(page, " title=\"{}\"", escape(hint));
    }
    match &of.link {
        Some(link) => put!(page, "><a href=\"#{}\">{}</a>", escape(link), escape(&of.text)),
        None => put!(page, ">{}", escape(&of.text)),
    }
    put!(page, "</{}>", if first { "th" } else { "td" });
}

fn bars(page: &mut String, of: &Bars) {
    let share = |value: f64| (100.0 * value / of.most).clamp(0.0, 100.0);
    put!(page, "<ol class=\"bars\">\n");
    for bar in &of.bars {
        let again = if bar.again { " again" } else { "" };
        put!(
            page,
            "<li class=\"{}{again}\"><span class=\"name\">{}",
            class_name(bar.class),
            escape(&bar.name)
        );
        if !bar.detail.is_empty() {
            put!(page, " <small>{}</small>", escape(&bar.detail));
        }
        put!(page, "</span><span class=\"track\"><i style=\"width:{:.2}%\"></i>", share(bar.value));
        if let Some((low, high)) = bar.interval {
            let (low, high) = (share(low), share(high));
            put!(page, "<i class=\"whisker\" style=\"left:{low:.2}%;width:{:.2}%\"></i>", high - low);
        }
        if let Some(roof) = bar.roof {
            put!(
                page,
                "<i class=\"roof\" style=\"left:{:.2}%\" title=\"roof: {} GFLOP/s\"></i>",
                share(roof),
                digits(roof)
            );
        }
        put!(page, "</span><span class=\"value\">{}", digits(bar.value));
        if !bar.tag.is_empty() {
            put!(page, " <em>{}</em>", bar.tag);
        }
        put!(page, "</span></li>\n");
    }
    put!(page, "</ol>\n");
}

fn stacks(page: &mut String, of: &Stacks) {
    put!(page, "<ol class=\"bars\">\n");
    for bar in &of.bars {
        put!(
            page,
            "<li><span class=\"name\">{} <small>{}</small></span><span class=\"track\">",
            escape(&bar.name),
            escape(&bar.detail)
        );
        let mut left = 0.0;
        for (class, name, size) in &bar.parts {
            let width = (100.0 * size / of.most).clamp(0.0, 100.0);
            put!(
                page,
                "<i class=\"part {}\" style=\"left:{left:.2}%;width:{width:.2}%\" title=\"{}: {} {}\"></i>",
                class_name(*class),
                escape(name),
                digits(*size),
                of.unit
            );
            left += width;
        }
        put!(page, "</span><span class=\"value\">{} <em>{}</em></span></li>\n", digits(bar.value), of.unit);
    }
    put!(page, "</ol>\n<p class=\"legend\">");
    for (class, name) in &of.legend {
        put!(
            page,
            "<span class=\"{}\"><i class=\"swatch\"></i>{}</span>\n",
            class_name(*class),
            escape(name)
        );
    }
    put!(page, "</p>\n");
}

fn plot(page: &mut String, of: &Plot) {
    let drawing = svg::plot(of);
    if drawing.is_empty() {
        return;
    }
    put!(page, "<figure>\n{drawing}");
    if !of.roofs.is_empty() {
        let roofs = of.roofs.iter().map(|roof| format!("{} {}", roof.name, roof.detail));
        put!(page, "<p class=\"roofs\">Roofs: {}</p>\n", escape(&roofs.collect::<Vec<_>>().join(" · ")));
    }
    if !of.legend.is_empty() {
        put!(page, "<figcaption>\n");
        for (class, name) in &of.legend {
            put!(
                page,
                "<span class=\"{}\">{}{}</span>\n",
                class_name(*class),
                svg::key(*class),
                escape(name)
            );
        }
        put!(page, "</figcaption>\n");
    }
    put!(page, "</figure>\n");
}
