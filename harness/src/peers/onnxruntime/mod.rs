//! ONNX Runtime on the CPU.
//!
//! It is measured as a user gets it: one operator after the other, its own pool with as many threads as the
//! row has, memory arena and memory patterns as by default, input and output bound beforehand. What it does
//! inside at every run, such as bringing the input into blocks of channels and the output back, is in the
//! run.
//!
//! Threads that wait busily: by default those of the pool go on for up to half a second after a run, on cores
//! where other engines then have their turn; told to stop at once, they would have to be woken for every run,
//! which is not what a user in a loop pays. So they wait busily for a millisecond, which is longer than the
//! gap between the runs of a sample, and the turn ends only when they sleep. Before 1.26 that time cannot be
//! set: there they stop at once.

mod api;
mod whole;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kernels::ConvSpec;
use prost::Message;

use self::api::{End, Level, Library, SPIN_US, Session, write_optimized};
use super::made::{self, Made};
use super::missing::Missing;
use super::{Paths, nchw};
use crate::buffer::Buffer;
use crate::engine::{Engine, Io, Prepared, Refusal};
use crate::network::{self, Part};
use crate::onnx::{self, proto::Model};
use crate::pinning::Pool;

const NAME: &str = "onnxruntime";

/// ONNX Runtime from the path that was given, or from where the system looks for it.
///
/// # Errors
/// When it was given and cannot be loaded.
pub(super) fn find(paths: &Paths) -> Result<Vec<Box<dyn Engine>>, String> {
    let peer: Box<dyn Engine> = match &paths.onnxruntime {
        Some(path) => Box::new(OnnxRuntime::new(given(path)?)),
        None => match of_system() {
            Ok(library) => Box::new(OnnxRuntime::new(library)),
            Err(reason) => Box::new(Missing::new(NAME, reason)),
        },
    };
    Ok(vec![peer])
}

fn given(path: &Path) -> Result<Library, String> {
    let named = |error: String| format!("{}: {error}", path.display());
    if path.is_dir() {
        return Err(named("is a folder, but must be ONNX Runtime's shared library".to_owned()));
    }
    // The loader would look for a bare name elsewhere.
    let whole = fs::canonicalize(path).map_err(|error| named(error.to_string()))?;
    Library::load(whole.as_os_str()).map_err(named)
}

/// From where the system looks for shared libraries, under the names that they have.
fn of_system() -> Result<Library, String> {
    let name = libloading::library_filename(NAME);
    let mut with_version = name.clone();
    with_version.push(".1");
    Library::load(&name).or_else(|error| {
        Library::load(&with_version).map_err(|_| {
            let name = Path::new(&name).display();
            format!("{name} could not be loaded ({error}); --onnxruntime FILE names one")
        })
    })
}

#[derive(Debug)]
struct OnnxRuntime {
    runtime: Library,
    /// What was fastest, for each convolution and number of threads.
    choices: RefCell<HashMap<(ConvSpec, usize), Choice>>,
}

/// How a convolution is run.
#[derive(Clone, Copy, Debug)]
struct Choice {
    level: Level,
    implementation: &'static str,
}

/// In ONNX's own layout.
const PLAIN: Choice = Choice { level: Level::Extended, implementation: "mlas nchw" };
/// In blocks of channels, with reordering where needed.
const BLOCKED: Choice = Choice { level: Level::All, implementation: "mlas nchwc" };

impl OnnxRuntime {
    fn new(library: Library) -> Self {
        OnnxRuntime { runtime: library, choices: RefCell::default() }
    }

    /// What is fastest for a convolution: both are tried, unless they are the same.
    fn choice(&self, task: &Task<'_>, pool: &Pool) -> Result<Choice, Refusal> {
        let key = (task.spec, pool.threads());
        if let Some(&choice) = self.choices.borrow().get(&key) {
            return Ok(choice);
        }
        let session = |choice| task.session(&self.runtime, choice, Cow::Borrowed(&task.input), pool);
        let choice = if blocks_channels(&self.runtime, &task.model)? {
            let (mut blocked, mut plain) = (session(BLOCKED)?.0, session(PLAIN)?.0);
            let first = first_is_faster([&mut blocked, &mut plain], pool).map_err(Refusal::unsupported)?;
            if first { BLOCKED } else { PLAIN }
        } else {
            PLAIN
        };
        self.choices.borrow_mut().insert(key, choice);
        Ok(choice)
    }
}

/// A convolution as the library is given it.
struct Task<'a> {
    spec: ConvSpec,
    model: Vec<u8>,
    input: Cow<'a, Buffer>,
}

impl Task<'_> {
    /// A session, and how long making it took. Its threads are kept on the pool's cores.
    fn session<'i>(
        &self,
        library: &'i Library,
        choice: Choice,
        input: Cow<'i, Buffer>,
        pool: &Pool,
    ) -> Result<(Session<'i>, Duration), Refusal> {
        let (x, y) = (nchw::input_shape(&self.spec), nchw::output_shape(&self.spec));
        let made = pool.drive_and_adopt(|| {
            let start = Instant::now();
            let ends = [End { name: "x", shape: &x }, End { name: "y", shape: &y }];
            let session =
                Session::new(library, &self.model, choice.level, pool.threads(), None, input, ends)?;
            Ok((session, start.elapsed()))
        });
        made.map_err(|error: String| Refusal::unsupported(error))
    }
}

/// Tries of a session.
const TRIES: usize = 5;
/// Time that a try fills with runs, at least.
const TRY: Duration = Duration::from_millis(1);

/// Whether the first of two sessions is no slower than the second, by the fastest of a few tries that they
/// take in turns.
fn first_is_faster(mut sessions: [&mut Session<'_>; 2], pool: &Pool) -> Result<bool, String> {
    let mut best = [Duration::MAX; 2];
    let mut repeats = [1; 2];
    // The first round counts for nothing but the number of runs in a try.
    for round in 0..=TRIES {
        for (index, session) in sessions.iter_mut().enumerate() {
            let one = time(session, repeats[index].into(), pool)? / repeats[index];
            if round == 0 {
                repeats[index] = (TRY.as_nanos() / one.as_nanos().max(1)).clamp(1, 1000) as u32;
            } else {
                best[index] = best[index].min(one);
            }
        }
    }
    Ok(best[0] <= best[1])
}

/// Runs a session so many times; how long that took.
fn time(session: &mut Session<'_>, repeats: u64, pool: &Pool) -> Result<Duration, String> {
    let time = pool.drive(|| {
        let start = Instant::now();
        for _ in 0..repeats {
            session.run()?;
        }
        Ok::<_, String>(start.elapsed())
    })?;
    if pool.threads() > 1 {
        // Until its threads sleep.
        std::thread::sleep(Duration::from_micros(2 * SPIN_US));
    }
    Ok(time)
}

/// The domain of the operators on blocks of channels.
const BLOCKED_DOMAIN: &str = "com.microsoft.nchwc";

/// Whether the library, if it may, computes the model on blocks of channels: seen from the model that it
/// writes when it has optimized it.
fn blocks_channels(library: &Library, model: &[u8]) -> Result<bool, Refusal> {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("convbench-{}-{number}.onnx", std::process::id());
    let file = Temporary(std::env::temp_dir().join(name));
    write_optimized(library, model, BLOCKED.level, &file.0).map_err(Refusal::unsupported)?;
    let named = |error: &dyn fmt::Display| Refusal::unavailable(format!("{}: {error}", file.0.display()));
    let bytes = fs::read(&file.0).map_err(|error| named(&error))?;
    let model = Model::decode(&bytes[..]).map_err(|error| named(&error))?;
    let nodes = model.graph.map(|graph| graph.node).unwrap_or_default();
    Ok(nodes.iter().any(|node| node.domain == BLOCKED_DOMAIN))
}

/// A file that goes away.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = fs::remove_file(&self.0);
    }
}

impl Engine for OnnxRuntime {
    fn engine(&self) -> &str {
        NAME
    }

    fn id(&self) -> &str {
        NAME
    }

    fn version(&self) -> Option<String> {
        Some(self.runtime.version().to_owned())
    }

    fn prepare<'a>(
        &'a self,
        spec: &ConvSpec,
        io: Io<'a>,
        pool: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        let model = onnx::convolution(spec, io.tensors);
        let task = Task { spec: *spec, model, input: nchw::input(spec, io.tensors) };
        let choice = self.choice(&task, pool)?;
        let (session, plan) = task.session(&self.runtime, choice, task.input.clone(), pool)?;
        let model = Box::new(Timed { session, pool });
        let made = Made { model, implementation: choice.implementation.to_owned(), plan };
        Ok(made.prepared(spec, io.tensors, pool))
    }

    fn network<'a>(&'a self, model: &network::Model<'a>, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
        let (session, plan) =
            whole::session(&self.runtime, model, pool, None).map_err(Refusal::unsupported)?;
        let implementation = "mlas nchwc".to_owned();
        Ok(Made { model: Box::new(Timed { session, pool }), implementation, plan })
    }

    fn network_parts(&self, model: &network::Model<'_>, pool: &Pool) -> Result<Vec<Part>, String> {
        whole::parts(&self.runtime, model, pool)
    }
}

/// A session and the pool that its runs are driven from.
struct Timed<'a> {
    session: Session<'a>,
    pool: &'a Pool,
}

impl made::Model for Timed<'_> {
    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        time(&mut self.session, repeats, self.pool)
    }

    fn output(&self) -> Result<Cow<'_, [f32]>, String> {
        Ok(Cow::Borrowed(self.session.output()))
    }
}
