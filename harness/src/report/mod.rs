//! What rows of a benchmark say: a ranking for the terminal, and a report to look at.
//!
//! - [`results`] is the union of files as one table, [`standings`], [`peers`], [`ladder`], [`scaling`],
//!   [`costs`], [`networks`] and [`refusals`] are what it says, as data;
//! - [`sections`] turns that into a [`document`]: text, tables and figures without a form;
//! - [`html`], with [`svg`] for plots, and [`markdown`] give it one, [`csv`] has the bare rows, [`text`] is
//!   for the terminal.

pub mod costs;
pub mod csv;
pub mod document;
pub mod html;
pub mod ladder;
pub mod markdown;
pub mod networks;
pub mod numbers;
pub mod peers;
pub mod refusals;
pub mod results;
pub mod scaling;
pub mod sections;
pub mod standings;
pub mod svg;
#[cfg(test)]
mod tests;
pub mod text;

use std::fs;
use std::path::{Path, PathBuf};

use crate::file::write_whole;
use document::Warning;
use results::{Results, Source};

/// The page of a report in its folder.
pub const PAGE: &str = "index.html";

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The files.
    pub files: Vec<PathBuf>,
    /// What was found, a line for each setting.
    pub verdict: Vec<String>,
    /// What a reader must know before believing it.
    pub warnings: Vec<Warning>,
}

/// Writes the report of some results into a folder, which it makes if need be: [`PAGE`], `report.md` and
/// `rows.csv`, each complete or not at all.
///
/// # Errors
/// One line that names the file that cannot be written.
pub fn write(folder: &Path, sources: Vec<Source>) -> Result<Written, String> {
    let results = Results::of(sources);
    let document = sections::document(&results);
    let files = [
        (PAGE, html::page(&document).into_bytes()),
        ("report.md", markdown::page(&document).into_bytes()),
        ("rows.csv", csv::table(&results)?),
    ];
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut written = Vec::new();
    for (name, bytes) in files {
        let path = folder.join(name);
        write_whole(&path, |file| file.write_all(&bytes))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        written.push(path);
    }
    Ok(Written { files: written, verdict: document.verdict, warnings: document.warnings })
}
