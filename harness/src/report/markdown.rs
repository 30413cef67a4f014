//! A page in Markdown.

use std::fmt::Write;

use crate::report::document::{Block, Cell, Document, Mark, Table};

/// The page.
pub fn page(document: &Document) -> String {
    let mut page = format!("# {}\n\n{}\n", line(&document.title), line(&document.subtitle));
    for verdict in &document.verdict {
        let _ = write!(page, "\n- {}", line(verdict));
    }
    page.push('\n');
    for warning in &document.warnings {
        let _ = writeln!(page, "\n> **Note:** {}", line(&warning.text));
    }
    for section in &document.sections {
        let _ = writeln!(page, "\n## {}", line(&section.title));
        blocks(&mut page, &section.blocks, 3);
    }
    page
}

// Writing to a String cannot fail.
fn blocks(page: &mut String, of: &[Block], level: usize) {
    let hashes = "#".repeat(level.min(6));
    for block in of {
        let _ = match block {
            Block::Text(text) => writeln!(page, "\n{}", line(text)),
            Block::Warning(warning) => writeln!(page, "\n> **Note:** {}", line(&warning.text)),
            Block::Code(code) => writeln!(page, "\n    {}", code.replace(['\n', '\r'], " ")),
            Block::Facts(facts) => {
                let facts = facts.iter().map(|(name, value)| format!("- {}: {}\n", line(name), line(value)));
                write!(page, "\n{}", facts.collect::<String>())
            }
            Block::Table(table) => write!(page, "\n{}", self::table(table)),
            Block::Bars(_) | Block::Stacks(_) | Block::Plot(_) => Ok(()),
            Block::Of(setting, inner) => {
                let mut text = String::new();
                blocks(&mut text, inner, level + 1);
                // A figure without its heading would leave the heading alone.
                if text.is_empty() { Ok(()) } else { write!(page, "\n{hashes} {}\n{text}", setting.label()) }
            }
            Block::Fold(fold) => {
                let detail = if fold.detail.is_empty() { "" } else { ": " };
                let title = format!("{}{detail}{}", line(&fold.title), line(&fold.detail));
                let heading = writeln!(page, "\n{hashes} {title}");
                blocks(page, &fold.blocks, level + 1);
                heading
            }
        };
    }
}

fn table(of: &Table) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let words = |column: usize| column == 0 || of.words.contains(&column);
    let heads: Vec<String> = of.heads.iter().map(|head| line(head)).collect();
    let rule: Vec<String> =
        (0..of.heads.len()).map(|column| if words(column) { "---" } else { "---:" }.to_owned()).collect();
    let rows = of.rows.iter().map(|cells| row(&cells.iter().map(cell).collect::<Vec<_>>()));
    row(&heads) + &row(&rule) + &rows.collect::<String>()
}

fn cell(of: &Cell) -> String {
    let text = line(&of.text);
    match of.mark {
        Mark::Best | Mark::Wrong | Mark::Sum if !text.is_empty() => format!("**{text}**"),
        _ => text,
    }
}

/// Text that means itself, on one line.
fn line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '|' | '*' | '`' | '[' | ']' | '#' => line.extend(['\\', c]),
            '<' => line.push_str("&lt;"),
            '&' => line.push_str("&amp;"),
            c if c.is_control() => line.push(' '),
            c => line.push(c),
        }
    }
    line
}
