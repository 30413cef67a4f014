//! `report`: a page of results.

use std::io::Write;

use harness::report::results::Source;

use crate::{Outcome, args, refused};

pub(crate) fn report(args: &args::Report, out: &mut dyn Write) -> Outcome {
    let sources = args.results.iter().map(|path| Source::read(path).map_err(refused));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let written = harness::report::write(&args.output, sources).map_err(refused)?;
    let warnings = written.warnings.iter().map(|warning| &warning.text);
    for line in written.verdict.iter().chain(warnings) {
        writeln!(out, "{line}")?;
    }
    for file in &written.files {
        writeln!(out, "{}", file.display())?;
    }
    Ok(())
}
