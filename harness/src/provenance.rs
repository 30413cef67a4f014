//! Where rows come from: the command, the machine, the build.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine};

/// A run of a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The command, as it was typed.
    pub command: String,
    /// When it was started, in UTC.
    pub started: String,
    /// Version of the program.
    pub version: String,
    /// The CPU's name.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Bytes of level-1 data, level-2 and level-3 cache.
    pub caches: [usize; 3],
    /// Operating system and architecture.
    pub platform: String,
    /// Instruction sets that are available, as far as `CONV_ISA` allows.
    pub isas: Vec<String>,
    /// The compiler.
    pub rustc: String,
    /// Compiler flags beyond those of the profile.
    pub flags: String,
    /// The profile: `release` or `debug`.
    pub profile: String,
    /// The revision of the sources.
    pub revision: String,
    /// The machine's load over the last minute when the run began: threads that wanted to run.
    pub load: f64,
    /// The GPU, where anything was measured on it.
    #[serde(default)]
    pub gpu: Option<String>,
}

impl Run {
    /// This run, now.
    pub fn new(command: String) -> Self {
        let Machine { cpu, cores, caches, platform, .. } = Machine::detect();
        let isas = machine::instruction_sets();
        Run {
            command,
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu,
            cores,
            caches,
            platform,
            isas: isas.into_iter().filter(|(_, no)| no.is_none()).map(|(isa, _)| isa.to_string()).collect(),
            rustc: env!("HARNESS_RUSTC").to_owned(),
            flags: env!("HARNESS_FLAGS").to_owned(),
            profile: env!("HARNESS_PROFILE").to_owned(),
            revision: env!("HARNESS_REVISION").to_owned(),
            load: sysinfo::System::load_average().one,
            gpu: None,
        }
    }

    /// This run, with the command line of the process.
    pub fn of_process() -> Self {
        let mut words = std::env::args();
        let program = words.next().unwrap_or_default();
        let program = program.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        let quote = |word: String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+@".contains(c);
            if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{word}'") }
        };
        Run::new(std::iter::once(program).chain(words.map(quote)).collect::<Vec<_>>().join(" "))
    }

    /// What makes two machines unlike, if they are: the first fact that differs.
    pub fn unlike(&self, other: &Run) -> Option<String> {
        // A run that measured nothing on a GPU may be of any.
        let both = self.gpu.is_some() && other.gpu.is_some();
        let gpu = |run: &Run| run.gpu.clone().filter(|_| both).unwrap_or_default();
        let facts = |run: &Run| {
            [
                ("CPU", run.cpu.clone()),
                ("cores", run.cores.to_string()),
                ("caches", run.caches.map(|n| machine::bytes(n as u64)).join(", ")),
                ("platform", run.platform.clone()),
                ("instruction sets", run.isas.join(", ")),
                ("GPU", gpu(run)),
            ]
        };
        let pairs = facts(self).into_iter().zip(facts(other));
        let different = pairs.into_iter().find(|((_, a), (_, b))| a != b);
        different.map(|((what, a), (_, b))| format!("{what} {a} and {b}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_knows_itself() {
        let run = Run::of_process();
        assert!(run.started.ends_with('Z') && run.started.starts_with("20"), "{run:?}");
        assert!(run.rustc.starts_with("rustc ") && run.cores > 0, "{run:?}");
        assert_eq!(run.unlike(&run.clone()), None);
        let other = Run { cores: run.cores + 1, ..run.clone() };
        assert_eq!(run.unlike(&other), Some(format!("cores {} and {}", run.cores, run.cores + 1)));
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run);
    }
}
