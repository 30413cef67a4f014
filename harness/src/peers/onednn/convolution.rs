//! A convolution in oneDNN's hands.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use kernels::ConvSpec;

use super::ffi::{self, Failure, Library};
use super::objects::{Array, Arrays, Choice, Descriptors, Device, Memory, Primitive, Reorder};
use crate::data::Tensors;
use crate::machine;

/// A convolution that is ready to run: the primitive, its arrays in the layouts that the library chose, and
/// what brings input and output from and to the layouts of the spec.
#[derive(Debug)]
pub(super) struct Convolution<'a> {
    primitive: Primitive,
    arrays: Arrays<'a>,
    input: Memory<'a>,
    load: Reorder,
    store: Reorder,
    /// Whether the library's layout of input and output is another than the spec's.
    moves: [bool; 2],
    user: Descriptors,
    // Last: what is made on a device goes before it.
    device: Device,
}

/// What the library says about it.
#[derive(Clone, Debug)]
pub(super) struct Description {
    /// Its name for the implementation.
    pub(super) implementation: String,
    /// Time to choose and compile it and to bring the weights into its layout.
    pub(super) plan: Duration,
    pub(super) scratch_bytes: Option<usize>,
    pub(super) weights_bytes: usize,
}

impl<'a> Convolution<'a> {
    /// Chooses an implementation by this `dnnl_alg_kind_t` and brings weights and input into its layouts.
    pub(super) fn new(
        dnnl: &'static Library,
        spec: &ConvSpec,
        algorithm: c_int,
        tensors: &'a Tensors,
    ) -> Result<(Self, Description), Failure> {
        let device = Device::new(dnnl)?;
        let user = Descriptors::of_user(dnnl, spec)?;
        let start = Instant::now();
        let choice = Choice::new(&device, spec, algorithm)?;
        let chosen = start.elapsed();
        let scratch_bytes = choice.scratch_bytes();
        if scratch_bytes.is_some_and(|bytes| bytes as u64 > machine::available_memory()) {
            return Err(Failure { function: "dnnl_primitive_create", status: ffi::OUT_OF_MEMORY });
        }
        let start = Instant::now();
        let primitive = choice.primitive()?;
        let layout = choice.layout(Array::Weights)?;
        let weights_bytes = layout.bytes();
        let weights = Memory::new(&device, layout)?;
        let from = Memory::of(&device, &user.weights, &tensors.weights)?;
        // SAFETY: both memories were just made with these layouts, the second is the library's own.
        unsafe { Reorder::into_chosen(&device, &user.weights, layout)?.run(&device, &from, &weights) }?;
        device.wait()?;
        let plan = chosen + start.elapsed();
        drop(from);
        let (into, out_of) = (choice.layout(Array::Input)?, choice.layout(Array::Output)?);
        let moves = [!into.is(&user.input), !out_of.is(&user.output)];
        let arrays = Arrays {
            input: Memory::new(&device, into)?,
            weights,
            bias: Memory::of(&device, &user.bias, &tensors.bias)?,
            output: Memory::new(&device, out_of)?,
        };
        let load = Reorder::into_chosen(&device, &user.input, into)?;
        let store = Reorder::from_chosen(&device, out_of, &user.output)?;
        let implementation = choice.implementation()?;
        let input = Memory::of(&device, &user.input, &tensors.input)?;
        let convolution = Convolution { primitive, arrays, input, load, store, moves, user, device };
        convolution.load()?;
        Ok((convolution, Description { implementation, plan, scratch_bytes, weights_bytes }))
    }

    /// Runs so many times; how long that took.
    pub(super) fn run(&self, repeats: u64) -> Result<Duration, Failure> {
        let start = Instant::now();
        // SAFETY: `new` has made the primitive from a convolution's description and the arrays with the
        // layouts that the description asks for; the output is the library's own.
        unsafe { self.primitive.convolve(&self.device, &self.arrays, repeats) }?;
        Ok(start.elapsed())
    }

    fn load(&self) -> Result<(), Failure> {
        // SAFETY: `new` has made the memories with the reorder's layouts; the second is the library's own.
        unsafe { self.load.run(&self.device, &self.input, &self.arrays.input) }?;
        self.device.wait()
    }

    /// Brings the output into the layout of the spec; how long that took.
    pub(super) fn store(&self, output: &mut [f32]) -> Result<Duration, Failure> {
        let to = Memory::of_mut(&self.device, &self.user.output, output)?;
        let start = Instant::now();
        // SAFETY: `new` has made the first memory and the reorder with the same layout; the second may be
        // written to.
        unsafe { self.store.run(&self.device, &self.arrays.output, &to) }?;
        self.device.wait()?;
        Ok(start.elapsed())
    }

    /// Brings input and output from and to the layouts of the spec, where the library has others; how long
    /// that took.
    pub(super) fn reorder(&self, output: &mut [f32]) -> Result<Option<Duration>, Failure> {
        let [input_moves, output_moves] = self.moves;
        let mut time = None;
        if input_moves {
            let start = Instant::now();
            self.load()?;
            time = Some(start.elapsed());
        }
        if output_moves {
            time = Some(time.unwrap_or_default() + self.store(output)?);
        }
        Ok(time)
    }
}
