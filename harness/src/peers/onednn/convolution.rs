//! A convolution in oneDNN's hands.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use kernels::ConvSpec;

use super::choice::{Array, Choice};
use super::ffi::{self, Failure, Library};
use super::objects::{Descriptors, Device, Memory, Operand, Primitive, Reorder};
use crate::data::Tensors;
use crate::machine;
use crate::record::Gradient;

/// A convolution, or a gradient of one, that is ready to run: the primitive, its arrays in the layouts that the
/// library chose, and what brings those that are new for each run from the layouts of the spec, and results there.
#[derive(Debug)]
pub(super) struct Convolution<'a> {
    primitive: Primitive,
    operands: Vec<Operand<'a>>,
    loads: Vec<Load<'a>>,
    stores: Vec<Store>,
    user: Descriptors,
    // Last: what is made on a device goes before it.
    device: Device,
}

/// An operand that is new for each run.
#[derive(Debug)]
struct Load<'a> {
    /// Its place among the operands.
    operand: usize,
    from: Memory<'a>,
    reorder: Reorder,
    /// Whether the library's layout is another than the spec's.
    moves: bool,
}

/// A result.
#[derive(Debug)]
struct Store {
    /// Its place among the operands.
    operand: usize,
    /// f32s of it; results lie one behind the other.
    len: usize,
    reorder: Reorder,
    /// Whether the library's layout is another than the spec's.
    moves: bool,
}

/// Arrays by what becomes of them: brought into the library's layout once, or for each run; results, with their
/// lengths.
type Roles = (&'static [Array], &'static [Array], Vec<(Array, usize)>);

fn roles(spec: &ConvSpec, gradient: Option<Gradient>) -> Roles {
    use Array::*;
    match gradient {
        None => (&[Weights, Bias], &[Input], vec![(Output, spec.output_len())]),
        Some(Gradient::BackwardData) => {
            (&[Weights], &[OutputGradient], vec![(InputGradient, spec.input_len())])
        }
        Some(Gradient::BackwardWeights) => {
            let results = [(WeightsGradient, spec.weights_len()), (BiasGradient, spec.out_channels())];
            (&[], &[Input, OutputGradient], results.to_vec())
        }
    }
}

/// What the library says about it.
#[derive(Clone, Debug)]
pub(super) struct Description {
    /// Its name for the implementation.
    pub(super) implementation: String,
    /// Time to choose and compile it and to bring the weights into its layout.
    pub(super) plan: Duration,
    pub(super) scratch_bytes: Option<usize>,
    pub(super) weights_bytes: Option<usize>,
}

impl<'a> Convolution<'a> {
    /// Chooses an implementation by this `dnnl_alg_kind_t` and brings weights and input into its layouts.
    pub(super) fn new(
        dnnl: &'static Library,
        spec: &ConvSpec,
        algorithm: c_int,
        gradient: Option<Gradient>,
        tensors: &'a Tensors,
    ) -> Result<(Self, Description), Failure> {
        let device = Device::new(dnnl)?;
        let user = Descriptors::of_user(dnnl, spec)?;
        let start = Instant::now();
        let choice = Choice::new(&device, spec, algorithm, gradient)?;
        let chosen = start.elapsed();
        let scratch_bytes = choice.scratch_bytes();
        if scratch_bytes.is_some_and(|bytes| bytes as u64 > machine::available_memory()) {
            return Err(Failure { function: "dnnl_primitive_create", status: ffi::OUT_OF_MEMORY });
        }
        let given = |array: Array| -> Result<Memory<'a>, Failure> {
            let data = match array {
                Array::Input => &tensors.input,
                Array::Weights => &tensors.weights,
                Array::Bias => &tensors.bias,
                _ => &tensors.previous,
            };
            Memory::of(&device, user.of(array), data)
        };
        let (once, each_run, results) = roles(spec, gradient);
        let start = Instant::now();
        let primitive = choice.primitive()?;
        let mut operands = Vec::new();
        let mut weights_bytes = None;
        for &array in once {
            let layout = choice.layout(array)?;
            if array == Array::Weights {
                weights_bytes = Some(layout.bytes());
            }
            let memory = Memory::new(&device, layout)?;
            let from = given(array)?;
            // SAFETY: both memories were just made with these layouts, the second is the library's own.
            unsafe { Reorder::into_chosen(&device, user.of(array), layout)?.run(&device, &from, &memory) }?;
            device.wait()?;
            operands.push(Operand { array, memory });
        }
        let plan = chosen + start.elapsed();
        let mut loads = Vec::new();
        for &array in each_run {
            let layout = choice.layout(array)?;
            loads.push(Load {
                operand: operands.len(),
                from: given(array)?,
                reorder: Reorder::into_chosen(&device, user.of(array), layout)?,
                moves: !layout.is(user.of(array)),
            });
            operands.push(Operand { array, memory: Memory::new(&device, layout)? });
        }
        let mut stores = Vec::new();
        for (array, len) in results {
            let layout = choice.layout(array)?;
            stores.push(Store {
                operand: operands.len(),
                len,
                reorder: Reorder::from_chosen(&device, layout, user.of(array))?,
                moves: !layout.is(user.of(array)),
            });
            operands.push(Operand { array, memory: Memory::new(&device, layout)? });
        }
        let implementation = choice.implementation()?;
        let convolution = Convolution { primitive, operands, loads, stores, user, device };
        convolution.load(|_| true)?;
        Ok((convolution, Description { implementation, plan, scratch_bytes, weights_bytes }))
    }

    /// Runs so many times; how long that took.
    pub(super) fn run(&self, repeats: u64) -> Result<Duration, Failure> {
        let start = Instant::now();
        // SAFETY: `new` has made the primitive from a description and the operands that belong to it with the
        // layouts that the description asks for; results are the library's own.
        unsafe { self.primitive.convolve(&self.device, &self.operands, repeats) }?;
        Ok(start.elapsed())
    }

    fn load(&self, wanted: impl Fn(&Load<'_>) -> bool) -> Result<(), Failure> {
        for load in self.loads.iter().filter(|load| wanted(load)) {
            let to = &self.operands[load.operand].memory;
            // SAFETY: `new` has made the memories with the reorder's layouts; the second is the library's own.
            unsafe { load.reorder.run(&self.device, &load.from, to) }?;
        }
        self.device.wait()
    }

    /// Brings the results into the layouts of the spec, one behind the other; how long that took.
    pub(super) fn store(&self, output: &mut [f32]) -> Result<Duration, Failure> {
        self.store_some(output, |_| true)
    }

    fn store_some(
        &self,
        mut output: &mut [f32],
        wanted: impl Fn(&Store) -> bool,
    ) -> Result<Duration, Failure> {
        let mut time = Duration::ZERO;
        for store in &self.stores {
            let Some((to, rest)) = output.split_at_mut_checked(store.len) else {
                return Err(Failure { function: "dnnl_memory_create", status: ffi::RUNTIME_ERROR });
            };
            output = rest;
            if !wanted(store) {
                continue;
            }
            let Operand { array, memory } = &self.operands[store.operand];
            let to = Memory::of_mut(&self.device, self.user.of(*array), to)?;
            let start = Instant::now();
            // SAFETY: `new` has made the first memory and the reorder with the same layout; the second may be
            // written to.
            unsafe { store.reorder.run(&self.device, memory, &to) }?;
            self.device.wait()?;
            time += start.elapsed();
        }
        Ok(time)
    }

    /// Brings operands and results from and to the layouts of the spec, where the library has others; how long
    /// that took.
    pub(super) fn reorder(&self, output: &mut [f32]) -> Result<Option<Duration>, Failure> {
        let loads = self.loads.iter().any(|load| load.moves);
        let stores = self.stores.iter().any(|store| store.moves);
        let start = Instant::now();
        self.load(|load| load.moves)?;
        let loaded = if loads { start.elapsed() } else { Duration::ZERO };
        let stored = self.store_some(output, |store| store.moves)?;
        Ok((loads || stores).then_some(loaded + stored))
    }
}
