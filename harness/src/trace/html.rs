//! Pieces that the page is made of. Every number stands there twice: short to be read, whole to be checked.

use crate::report::html::escape;
use crate::report::numbers::short;
use crate::trace::picture::Picture;

/// The style of the report, and what only this page needs.
const STYLE: [&str; 2] = [include_str!("../report/page.css"), include_str!("trace.css")];

/// What says that a page was made here.
pub(super) const GENERATOR: &str = "<meta name=\"generator\" content=\"convbench trace\">";

/// A number to be read.
pub(super) fn text(value: f64) -> String {
    let text = match value.abs() {
        0.0 => "0".to_owned(),
        size if !(0.001..1e6).contains(&size) => format!("{value:.1e}"),
        _ => short(value),
    };
    text.replace('-', "−")
}

/// A number of so many decimals.
pub(super) fn decimal(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let is_zero = text.chars().all(|c| matches!(c, '-' | '0' | '.'));
    if is_zero { text.trim_start_matches('-').to_owned() } else { text.replace('-', "−") }
}

/// A number with its whole value.
pub(super) fn number(value: f64) -> String {
    format!("<data value=\"{value}\">{}</data>", text(value))
}

/// A named number.
pub(super) fn named(id: &str, value: f64) -> String {
    format!("<data id=\"{id}\" value=\"{value}\">{}</data>", text(value))
}

/// Digits in groups of three.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let from_end = |i: usize| i > 0 && (digits.len() - i).is_multiple_of(3);
    let with_spaces =
        digits.char_indices().flat_map(|(i, c)| from_end(i).then_some('\u{202f}').into_iter().chain([c]));
    with_spaces.collect()
}

/// The class of a number's sign, and how much of its colour shows, in percent.
pub(super) fn heat(value: f64, most: f64) -> (&'static str, f64) {
    let share = if most > 0.0 { (value.abs() / most).min(1.0) } else { 0.0 };
    (if value < 0.0 { "n" } else { "p" }, (1000.0 * share).round() / 10.0)
}

/// A matrix with its name, shaded by size; numbers in it have as many decimals as the largest needs.
pub(super) fn matrix(name: &str, rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> String {
    let all = || (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
    let most = all().map(|(i, j)| value(i, j).abs()).fold(0.0, f64::max);
    let decimals = match most {
        most if most >= 100.0 => 0,
        most if most >= 10.0 => 1,
        most if most >= 0.2 || most == 0.0 => 2,
        most if most >= 0.02 => 3,
        _ => 4,
    };
    let mut page = format!("<figure class=\"matrix\"><figcaption>{name}</figcaption><table>");
    for i in 0..rows {
        page += "<tr>";
        for j in 0..columns {
            let value = value(i, j);
            let (class, share) = heat(value, most);
            let text = if value == 0.0 { "0".to_owned() } else { decimal(value, decimals) };
            page += &format!(
                "<td class=\"{class}\" style=\"--v:{share}%\"><data value=\"{value}\">{text}</data></td>"
            );
        }
        page += "</tr>";
    }
    page + "</table></figure>"
}

/// A picture, large, with what it shows.
pub(super) fn picture(name: &str, picture: &Picture, shows: &str) -> String {
    let [height, width] = picture.size;
    format!(
        "<img src=\"{}\" width=\"{width}\" height=\"{height}\" alt=\"{}\" data-file=\"{}\">",
        picture.data_url(),
        escape(shows),
        escape(name)
    )
}

/// A part of the page.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: String,
    pub(super) html: String,
}

/// The page.
pub(super) fn page(title: &str, about: &str, facts: &[(&str, String)], sections: &[Section]) -> String {
    let title = escape(title);
    let [report, own] = STYLE;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n{GENERATOR}\n<title>{title}</title>\n\
         <style>\n{report}{own}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n<p class=\"about\">{about}</p>\n<dl>\n"
    );
    for (name, value) in facts {
        page += &format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n");
    }
    page += "</dl>\n</header>\n<nav>\n<ul>\n";
    for section in sections {
        page += &format!("<li><a href=\"#{}\">{}</a></li>\n", section.id, section.title);
    }
    page += "</ul>\n</nav>\n<main>\n";
    for section in sections {
        page += &format!(
            "<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n",
            section.id, section.title, section.html
        );
    }
    page + "</main>\n</body>\n</html>\n"
}
