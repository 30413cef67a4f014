//! `trace`: a lecture's figures from live data.

use std::io::Write;

use harness::report::PAGE;
use harness::trace::{Failure, Options, Subject, Trace};

use crate::{Outcome, Stop, args, refused};

pub(crate) fn trace(args: &args::Trace, out: &mut dyn Write) -> Outcome {
    let subject = match (&args.spec, &args.network) {
        (Some(spec), _) => Subject::Spec(*spec),
        (None, Some(name)) => Subject::Network(name.clone()),
        (None, None) => return Err(refused("a network or --spec is missing")),
    };
    Trace::check_folder(&args.output).map_err(refused)?;
    let options = Options {
        image: args.image.clone(),
        weights: args.weights.clone(),
        seed: args.seed,
        layer: args.layer.clone(),
        at: args.at,
        kernel: args.kernel.clone(),
        ..Options::new(subject)
    };
    let trace = Trace::new(&options).map_err(|failure| match failure {
        Failure::Refused(what) => Stop::Refused(what),
        Failure::Wrong(what) => Stop::Failed(what),
    })?;
    trace.write(&args.output).map_err(refused)?;
    let page = args.output.join(PAGE);
    Ok(writeln!(out, "{}: {} pictures beside it", page.display(), trace.pictures.len())?)
}
