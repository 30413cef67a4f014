//! `convbench`: proves, measures and runs convolution kernels from the command line.
//!
//! Errors are one line on stderr; the exit code is 2 for bad input or a request that cannot be met, 1
//! for a failed check.

mod args;
mod bench;
mod compare;
mod errors;
mod facts;
mod net;
mod pool;
mod progress;
mod report;
mod run;
mod trace;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use args::{Cli, Command};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

/// Why the program ends early.
#[derive(Debug)]
enum Stop {
    /// Bad input, or a request that cannot be met.
    Refused(String),
    /// A check found something wrong.
    Failed(String),
    /// Whoever read the output has gone.
    Closed,
}

impl From<io::Error> for Stop {
    /// Of writing to stdout.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Closed,
            _ => Stop::Refused(format!("output could not be written: {error}")),
        }
    }
}

/// Refuses with what an error says.
fn refused(error: impl ToString) -> Stop {
    Stop::Refused(error.to_string())
}

type Outcome = Result<(), Stop>;

fn main() -> ExitCode {
    #[cfg(feature = "peers")]
    hold_candle();
    let mut out = io::stdout().lock();
    let outcome = match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command, &mut out),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let commands: Vec<String> =
                Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
            Err(Stop::Refused(format!("a command is missing: one of {}; or --help", commands.join(", "))))
        }
        Err(error) if error.use_stderr() => Err(Stop::Refused(one_line(&error.to_string()))),
        Err(help) => write!(out, "{help}").map_err(Stop::from),
    };
    let outcome = outcome.and_then(|()| out.flush().map_err(Stop::from));
    let (code, message) = match outcome {
        Ok(()) | Err(Stop::Closed) => return ExitCode::SUCCESS,
        Err(Stop::Failed(message)) => (1, message),
        Err(Stop::Refused(message)) => (2, message),
    };
    // Nobody may be reading stderr either.
    let _ = writeln!(io::stderr(), "convbench: {}", message.replace('\n', " "));
    ExitCode::from(code)
}

/// Keeps candle from bringing threads of its own, whose number it takes from the environment.
#[cfg(feature = "peers")]
fn hold_candle() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: the program has only just begun: there is no other thread that could read the environment.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}

fn dispatch(command: Command, out: &mut dyn Write) -> Outcome {
    match command {
        Command::Info(args) => facts::info(&args, out),
        Command::Kernels(args) => facts::kernels(&args, out),
        Command::Shape(args) => facts::shape(&args, out),
        Command::Errors(args) => errors::errors(&args, out),
        Command::Run(args) => run::run(&args, out),
        Command::Bench(args) => bench::bench(&args, out),
        Command::Compare(args) => compare::compare(&args, out),
        Command::Regret(args) => compare::regret(&args, out),
        Command::Report(args) => report::report(&args, out),
        Command::Verify(args) => verify::verify(&args, out),
        Command::Net(args) => net::net(&args, out),
        Command::Pool(args) => pool::pool(&args, out),
        Command::Trace(args) => trace::trace(&args, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "convbench", &mut script);
            Ok(out.write_all(&script)?)
        }
    }
}

/// What clap says up to its usage and hints.
fn one_line(message: &str) -> String {
    let what: Vec<&str> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    what.join(" ").trim_start_matches("error: ").to_owned()
}
