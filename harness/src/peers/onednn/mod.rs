//! oneDNN, by its C interface, from a shared library that is looked for at run time. Versions 2 and 3.
//!
//! It is used as frameworks use it: the library chooses the layouts of input, weights and output for each
//! convolution, weights are brought into theirs once, and a run goes from input to output in the library's
//! layouts. `reorder` says what bringing both from and to the spec's layout costs.
//!
//! Gradients are used alike: what is new for each run lies in the library's layouts when a run begins, results stay
//! there.
//!
//! The library keeps no primitives that were made before (as its cache would), so that preparing a
//! convolution again takes as long as the first time.

mod choice;
mod convolution;
mod ffi;
mod objects;
mod openmp;

use std::ffi::c_int;
use std::path::PathBuf;
use std::time::Duration;

use kernels::{ConvSpec, ErrorModel, PlanOptions};

use self::convolution::{Convolution, Description};
use self::ffi::{Failure, Library};
use crate::engine::{Engine, Facts, Io, Prepared, Refusal, result};
use crate::peers::nchw;
use crate::pinning::Pool;
use crate::record::{Gradient, Status};

/// The name that it is asked for by, and the prefix of its ids.
pub(super) const NAME: &str = "onednn";

/// The files that the system is asked for, newest version first.
const FILES: &[&str] = if cfg!(target_os = "macos") {
    &["libdnnl.3.dylib", "libdnnl.2.dylib", "libdnnl.dylib"]
} else if cfg!(windows) {
    &["dnnl.dll"]
} else {
    &["libdnnl.so.3", "libdnnl.so.2", "libdnnl.so"]
};

/// The engines of each of these libraries; of the system's, if none is given.
///
/// # Errors
/// A given file that is of no use.
pub(super) fn find(paths: &[PathBuf], gradient: Option<Gradient>) -> Result<Vec<Box<dyn Engine>>, String> {
    let libraries = if paths.is_empty() {
        vec![of_system()]
    } else {
        paths.iter().map(|path| Library::of_file(path).map(Ok)).collect::<Result<_, _>>()?
    };
    let mut names: Vec<String> = Vec::new();
    let mut engines: Vec<Box<dyn Engine>> = Vec::new();
    for dnnl in libraries {
        let name = match &dnnl {
            Ok(dnnl) if paths.len() > 1 => unlike(&names, format!("{NAME}-{}", dnnl.version)),
            _ => NAME.to_owned(),
        };
        let algorithms = match gradient {
            None => &[Algorithm::Direct, Algorithm::Winograd][..],
            Some(_) => &[Algorithm::Direct],
        };
        for &algorithm in algorithms {
            let id = format!("{name}{}", algorithm.suffix());
            engines.push(Box::new(OneDnn { id, dnnl: dnnl.clone(), algorithm, gradient }));
        }
        names.push(name);
    }
    Ok(engines)
}

/// A name, with a number if it is taken.
fn unlike(names: &[String], name: String) -> String {
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !names.contains(name)).unwrap_or(name)
}

/// The newest library that the system finds, or why it finds none.
fn of_system() -> Result<&'static Library, String> {
    let mut reasons = Vec::new();
    for file in FILES {
        match Library::of_system(file) {
            Ok(dnnl) => return Ok(dnnl),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(format!("the system has no library of oneDNN ({})", reasons.join("; ")))
}

/// What the library is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// What it takes for the definition's sums: direct convolution or a matrix product.
    Direct,
    /// Winograd's, which it takes only by name.
    Winograd,
}

impl Algorithm {
    fn suffix(self) -> &'static str {
        match self {
            Algorithm::Direct => "",
            Algorithm::Winograd => "-winograd",
        }
    }

    fn kind(self) -> c_int {
        match self {
            Algorithm::Direct => ffi::CONVOLUTION_DIRECT,
            Algorithm::Winograd => ffi::CONVOLUTION_WINOGRAD,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Algorithm::Direct => "convolution",
            Algorithm::Winograd => "Winograd convolution",
        }
    }
}

/// A library of oneDNN, asked for an algorithm.
#[derive(Debug)]
struct OneDnn {
    id: String,
    /// Or why there is none.
    dnnl: Result<&'static Library, String>,
    algorithm: Algorithm,
    gradient: Option<Gradient>,
}

impl Engine for OneDnn {
    fn engine(&self) -> &str {
        NAME
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn gradient(&self) -> Option<Gradient> {
        self.gradient
    }

    fn version(&self) -> Option<String> {
        self.dnnl.as_ref().ok().map(|dnnl| dnnl.version.to_string())
    }

    fn prepare<'a>(
        &'a self,
        spec: &ConvSpec,
        io: Io<'a>,
        pool: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        let dnnl = *self.dnnl.as_ref().map_err(Refusal::unavailable)?;
        let version = dnnl.version;
        if pool.threads() > 1 && dnnl.openmp.is_none() {
            return Err(Refusal::unavailable(format!(
                "oneDNN {version} runs on one thread here: of its threads ({}) number and place cannot be set",
                version.runtime()
            )));
        }
        let (algorithm, gradient) = (self.algorithm.kind(), self.gradient);
        let made = drive(dnnl, pool, || Convolution::new(dnnl, spec, algorithm, gradient, io.tensors));
        let (convolution, description) = made.map_err(|failure| self.refusal(dnnl, failure))?;
        let Description { implementation, plan, scratch_bytes, weights_bytes } = description;
        // From here on it goes on the driver, whatever happens.
        let mut prepared = OneDnnPlan {
            dnnl,
            convolution: Some(convolution),
            pool,
            output_len: result(spec, gradient).len(),
            facts: Facts {
                implementation,
                plan,
                workspace_bytes: scratch_bytes,
                packed_bytes: weights_bytes,
                own_flops: None,
                error_model: nchw::error_model(spec, gradient),
                stores: None,
                launches: None,
            },
        };
        if prepared.facts.implementation.contains("wino") {
            prepared.facts.error_model =
                winograd_model(&prepared.facts.implementation, spec, &io.tensors.weights)?;
        }
        Ok(Box::new(prepared))
    }
}

impl OneDnn {
    fn refusal(&self, dnnl: &Library, failure: Failure) -> Refusal {
        let version = dnnl.version;
        match failure.status {
            ffi::UNIMPLEMENTED => Refusal::unsupported(format!(
                "oneDNN {version} has no {} for this (unimplemented)",
                self.algorithm.noun()
            )),
            ffi::OUT_OF_MEMORY => {
                Refusal { status: Status::TooLarge, reason: format!("oneDNN {version}: {failure}") }
            }
            _ => Refusal::unavailable(format!("oneDNN {version}: {failure}")),
        }
    }
}

/// Runs something of the library's on the pool's driver, with its threads on the pool's cores.
fn drive<R: Send>(dnnl: &Library, pool: &Pool, work: impl FnOnce() -> R + Send) -> R {
    pool.drive(|| match &dnnl.openmp {
        Some(openmp) => openmp.with_team(pool, work),
        None => work(),
    })
}

/// oneDNN publishes no bound for its Winograd, so it is held against that of ours with the same tiles:
/// F(2×2,3×3), with the same points, where its name says `2x3`, or else F(4×4,3×3), with points ±5/8 and ±3/2
/// where ours are ±11/16 and ±3/2.
fn winograd_model(implementation: &str, spec: &ConvSpec, weights: &[f32]) -> Result<ErrorModel, Refusal> {
    let ours = if implementation.contains("2x3") { "winograd-f2" } else { "winograd-f4" };
    let ours = kernels::kernel(ours).map_err(Refusal::unsupported)?;
    let plan = ours.plan(spec, weights, &PlanOptions::default()).map_err(Refusal::unsupported)?;
    Ok(plan.error_model())
}

struct OneDnnPlan<'a> {
    dnnl: &'static Library,
    /// Always there until it is dropped.
    convolution: Option<Convolution<'a>>,
    pool: &'a Pool,
    output_len: usize,
    facts: Facts,
}

impl<'a> OneDnnPlan<'a> {
    fn drive<R: Send>(
        &mut self,
        work: impl FnOnce(&mut Convolution<'a>) -> Result<R, Failure> + Send,
    ) -> Result<R, String> {
        let convolution = self.convolution.as_mut().ok_or("is gone")?;
        drive(self.dnnl, self.pool, || work(convolution))
            .map_err(|failure| format!("oneDNN {}: {failure}", self.dnnl.version))
    }
}

impl Prepared for OneDnnPlan<'_> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        self.drive(|convolution| convolution.run(repeats))
    }

    fn store(&mut self, output: &mut [f32]) -> Result<(), String> {
        self.drive(|convolution| convolution.store(output)).map(drop)
    }

    fn reorder(&mut self) -> Option<Duration> {
        // Memory of its own, touched: the engine's output may be lent to the caller.
        let mut output = vec![f32::NAN; self.output_len];
        self.drive(|convolution| convolution.reorder(&mut output)).ok().flatten()
    }
}

impl Drop for OneDnnPlan<'_> {
    /// The library counts the users of a thread's scratch memory on the thread that makes and destroys
    /// them.
    fn drop(&mut self) {
        let convolution = self.convolution.take();
        self.pool.drive(move || drop(convolution));
    }
}
