//! cuDNN 9, by its C interface, from a shared library that is looked for at run time.
//!
//! It is used as frameworks do that look for the fastest algorithm (`torch.backends.cudnn.benchmark`): all of its
//! algorithms are tried on the layer at hand, with a workspace of 1 GiB, in both layouts, and the fastest counts.
//! Weights are brought into its layout once. It runs on the same stream, between the same events, from the same
//! buffers as ours; a layout other than the spec's is brought about beforehand, and `reorder_ns` says what that
//! would cost. A run is the convolution alone: the bias, which ours add, is added after it, outside the time.
//!
//! As `cudnn` it must compute products in f32 (`CUDNN_FMA_MATH`), and that is checked on data that TF32 would
//! round; as `cudnn-tf32` it may use the tensor cores, as frameworks let it by default.

mod convolution;
mod descriptors;
mod loaded;
mod tf32;

use std::cell::OnceCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kernels::{ConvSpec, ErrorModel, Layout, PlanOptions};

use self::convolution::{Convolution, Math};
use self::loaded::{Handle, Library};
use crate::data::Tensors;
use crate::engine::{Engine, Facts, Io, Prepared, Refusal};
use crate::gpu::{self, Buffers, Failure, Gpu, Runs};
use crate::peers::nchw;
use crate::pinning::Pool;
use crate::record::Precision;

const NAME: &str = "cudnn";

/// cuDNN of a file, or the system's, in f32 and in TF32.
///
/// # Errors
/// A given file that is of no use.
pub(super) fn find(path: Option<&Path>) -> Result<Vec<Box<dyn Engine>>, String> {
    let cudnn = match path {
        Some(path) => Ok(Library::of_file(path)?),
        None => Library::of_system(),
    };
    let shared = Rc::new(Shared { cudnn, handle: OnceCell::new() });
    let engine = |math| Box::new(Cudnn { shared: Rc::clone(&shared), math }) as Box<dyn Engine>;
    Ok(vec![engine(Math::Fma), engine(Math::Tf32)])
}

/// cuDNN, or why there is none, and its handle once it is needed.
#[derive(Debug)]
struct Shared {
    handle: OnceCell<Result<Rc<Handle>, String>>,
    // Goes after the handle.
    cudnn: Result<Library, String>,
}

impl Shared {
    fn handle(&self, gpu: &Gpu) -> Result<Rc<Handle>, Refusal> {
        let cudnn = self.cudnn.as_ref().map_err(Refusal::unavailable)?;
        let make = || Handle::new(cudnn, gpu).map(Rc::new).map_err(String::from);
        self.handle.get_or_init(make).clone().map_err(Refusal::unavailable)
    }
}

#[derive(Debug)]
struct Cudnn {
    shared: Rc<Shared>,
    math: Math,
}

impl Engine for Cudnn {
    fn engine(&self) -> &str {
        NAME
    }

    fn id(&self) -> &str {
        match self.math {
            Math::Fma => NAME,
            Math::Tf32 => "cudnn-tf32",
        }
    }

    fn version(&self) -> Option<String> {
        self.shared.cudnn.as_ref().ok().map(|cudnn| cudnn.version.clone())
    }

    fn on_device(&self) -> bool {
        true
    }

    fn device(&self) -> Option<String> {
        gpu::name()
    }

    fn precision(&self) -> Option<Precision> {
        match self.math {
            Math::Fma => None,
            Math::Tf32 => Some(Precision::Tf32),
        }
    }

    fn prepare<'a>(
        &'a self,
        spec: &ConvSpec,
        io: Io<'a>,
        _: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        self.shared.cudnn.as_ref().map_err(Refusal::unavailable)?;
        let gpu = Gpu::get().map_err(Refusal::unavailable)?;
        let handle = self.shared.handle(gpu)?;
        descriptors::supports(spec).map_err(Refusal::unsupported)?;
        let buffers = Buffers::of(gpu, spec, io.tensors)?;
        let start = Instant::now();
        let mut convolution = fastest(gpu, &handle, spec, self.math, io.tensors, &buffers)?;
        let plan = start.elapsed();
        if self.math == Math::Fma {
            convolution.refuse_tf32(spec)?;
        }
        let runs = Runs::new(gpu, &mut convolution)?;
        convolution.forget_output()?;
        let facts = Facts {
            implementation: convolution.implementation(),
            plan,
            workspace_bytes: Some(convolution.workspace_bytes()),
            packed_bytes: Some(4 * spec.weights_len()),
            own_flops: None,
            error_model: error_model(spec, self.math, convolution.is_winograd(), &io.tensors.weights),
            stores: None,
            launches: Some(runs.launches()),
        };
        Ok(Box::new(CudnnPlan { gpu, convolution, runs, facts, tensors: io.tensors, spec: *spec }))
    }
}

/// Tries of a layout; the fastest counts.
const TRIES: usize = 3;
/// Time that a try fills with runs.
const TRY: Duration = Duration::from_millis(2);

/// The fastest algorithm in the faster of both layouts.
fn fastest(
    gpu: &'static Gpu,
    handle: &Rc<Handle>,
    spec: &ConvSpec,
    math: Math,
    tensors: &Tensors,
    buffers: &Rc<Buffers>,
) -> Result<Convolution, Refusal> {
    let mut best: Option<(Duration, Convolution)> = None;
    let mut refusal = None;
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let tried =
            Convolution::new(gpu, handle, spec, math, layout, tensors, buffers).and_then(|mut made| {
                let time = time_of(gpu, &mut made)?;
                Ok((time, made))
            });
        match tried {
            Ok((time, made)) if best.as_ref().is_none_or(|(best, _)| time < *best) => {
                best = Some((time, made));
            }
            Ok(_) => {}
            Err(failure) => refusal = Some(failure),
        }
    }
    match (best, refusal) {
        (Some((_, best)), _) => Ok(best),
        (None, Some(failure)) => Err(failure.into()),
        (None, None) => Err(Refusal::unsupported("cuDNN has no layout for this")),
    }
}

/// How long a run takes, roughly.
fn time_of(gpu: &Gpu, convolution: &mut Convolution) -> Result<Duration, Failure> {
    let runs = Runs::new(gpu, convolution)?;
    let once = runs.time(gpu, convolution, 1)?;
    let repeats = (TRY.as_nanos() / once.as_nanos().max(1)).clamp(1, 200) as u32;
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        best = best.min(runs.time(gpu, convolution, repeats.into())? / repeats);
    }
    Ok(best)
}

/// What it is held against: as a sum of the definition's products, in TF32 with operands that were cut off after 10
/// bits and sums that tensor cores cut off; or, for its Winograd, against ours of the largest tile that it may be.
fn error_model(spec: &ConvSpec, math: Math, winograd: bool, weights: &[f32]) -> ErrorModel {
    let terms = (spec.weights_len() / spec.out_channels()) as f64;
    // (1 + 2⁻¹⁰)² − 1, in units of 2⁻²⁴.
    let operands = 32768.0 + 16.0;
    if winograd {
        let ours = if spec.kernel() == [5, 5] { "winograd-f2-5x5" } else { "winograd-f4" };
        let model = kernels::kernel(ours)
            .and_then(|ours| ours.plan(spec, weights, &PlanOptions::default()))
            .map(|plan| plan.error_model());
        match (model, math) {
            (Ok(ErrorModel::Winograd { k, transform }), Math::Tf32) => {
                return ErrorModel::Winograd { k: 2.0 * k + operands, transform };
            }
            (Ok(model), Math::Fma) => return model,
            _ => {}
        }
    }
    match math {
        Math::Fma => nchw::error_model(spec, None),
        Math::Tf32 => ErrorModel::Sum { k: operands + 2.0 * (terms + 3.0) },
    }
}

struct CudnnPlan<'a> {
    gpu: &'static Gpu,
    convolution: Convolution,
    runs: Runs,
    facts: Facts,
    tensors: &'a Tensors,
    spec: ConvSpec,
}

impl Prepared for CudnnPlan<'_> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        Ok(self.runs.time(self.gpu, &mut self.convolution, repeats)?)
    }

    fn store(&mut self, output: &mut [f32]) -> Result<(), String> {
        self.convolution.store(output)?;
        add_bias(&self.spec, &self.tensors.bias, output);
        Ok(())
    }

    fn reorder(&mut self) -> Option<Duration> {
        self.convolution.reorder().ok().flatten()
    }
}

fn add_bias(spec: &ConvSpec, bias: &[f32], output: &mut [f32]) {
    match spec.layout() {
        Layout::Nchw => {
            let pixels = (spec.out_height() * spec.out_width()).max(1);
            for (plane, bias) in output.chunks_exact_mut(pixels).zip(bias.iter().cycle()) {
                plane.iter_mut().for_each(|value| *value += bias);
            }
        }
        Layout::Nhwc => {
            for pixel in output.chunks_exact_mut(bias.len().max(1)) {
                pixel.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bias_is_of_the_channel() {
        for (layout, want) in [("", [1.0, 1.0, 2.0, 2.0]), (" nhwc", [1.0, 2.0, 1.0, 2.0])] {
            let spec: ConvSpec = format!("n2 c1 h1 w2 o2 k1{layout}").parse().unwrap();
            let mut output = [0.0; 8];
            add_bias(&spec, &[1.0, 2.0], &mut output);
            assert_eq!((&output[..4], &output[4..]), (&want[..], &want[..]), "{spec}");
        }
    }

    #[test]
    fn errors_are_held_against_the_algorithm() {
        let spec: ConvSpec = "c16 h9 w9 o8 k3 p1".parse().unwrap();
        let weights = vec![1.0; spec.weights_len()];
        let model = |math, winograd| error_model(&spec, math, winograd, &weights);
        assert_eq!(model(Math::Fma, false), ErrorModel::Sum { k: 147.0 });
        assert_eq!(model(Math::Tf32, false), ErrorModel::Sum { k: 32784.0 + 294.0 });
        let ErrorModel::Winograd { k: single, .. } = model(Math::Fma, true) else { panic!("no Winograd") };
        let ErrorModel::Winograd { k, .. } = model(Math::Tf32, true) else { panic!("no Winograd") };
        assert_eq!(k, 2.0 * single + 32784.0);
    }

    #[test]
    fn a_file_that_is_none_is_an_error() {
        let error = find(Some(Path::new("/nowhere/libcudnn.so.9"))).unwrap_err();
        assert!(error.starts_with("/nowhere/libcudnn.so.9: ") && !error.contains('\n'), "{error}");
    }
}
