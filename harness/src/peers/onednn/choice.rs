//! What the library chooses for a convolution or its gradient: an implementation, and layouts.

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::null;

use kernels::{ConvSpec, Padding};

use super::ffi::{self, ConstDescriptor, Dims, Failure, Generation, Library, Object, check};
use super::objects::{Descriptor, Descriptors, Device, Owned, Primitive, dims};
use crate::record::Gradient;

/// What the library has chosen for a convolution.
#[derive(Debug)]
pub(super) struct Choice {
    dnnl: &'static Library,
    description: Owned,
}

/// An array of a convolution or of a gradient of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Array {
    Input,
    Weights,
    Bias,
    Output,
    InputGradient,
    WeightsGradient,
    BiasGradient,
    OutputGradient,
}

impl Array {
    /// The index that it is handed over by.
    pub(super) fn argument(self) -> c_int {
        match self {
            Array::Input => ffi::ARG_SOURCE,
            Array::Weights => ffi::ARG_WEIGHTS,
            Array::Bias => ffi::ARG_BIAS,
            Array::Output => ffi::ARG_DESTINATION,
            Array::InputGradient => ffi::ARG_SOURCE_GRADIENT,
            Array::WeightsGradient => ffi::ARG_WEIGHTS_GRADIENT,
            Array::BiasGradient => ffi::ARG_BIAS_GRADIENT,
            Array::OutputGradient => ffi::ARG_DESTINATION_GRADIENT,
        }
    }

    /// The query for its layout and the index of that; those of biases are plain, and stand behind the weights'.
    fn query(self) -> (c_int, c_int) {
        match self {
            Array::Input => (ffi::QUERY_SOURCE, 0),
            Array::Weights => (ffi::QUERY_WEIGHTS, 0),
            Array::Bias => (ffi::QUERY_WEIGHTS, 1),
            Array::Output => (ffi::QUERY_DESTINATION, 0),
            Array::InputGradient => (ffi::QUERY_SOURCE_GRADIENT, 0),
            Array::WeightsGradient => (ffi::QUERY_WEIGHTS_GRADIENT, 0),
            Array::BiasGradient => (ffi::QUERY_WEIGHTS_GRADIENT, 1),
            Array::OutputGradient => (ffi::QUERY_DESTINATION_GRADIENT, 0),
        }
    }
}

/// A layout that the library has chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen<'a> {
    dnnl: &'static Library,
    pub(super) descriptor: ConstDescriptor,
    of: PhantomData<&'a Choice>,
}

impl Chosen<'_> {
    pub(super) fn bytes(self) -> usize {
        // SAFETY: the descriptor is alive.
        unsafe { (self.dnnl.descriptor_size)(self.descriptor) }
    }

    pub(super) fn is(self, descriptor: &Descriptor) -> bool {
        // SAFETY: both descriptors are alive.
        unsafe { (self.dnnl.descriptors_equal)(self.descriptor, descriptor.as_ptr()) != 0 }
    }
}

impl Choice {
    /// For inference, with layouts of its own choice, by this `dnnl_alg_kind_t`; or for a gradient.
    pub(super) fn new(
        device: &Device,
        spec: &ConvSpec,
        algorithm: c_int,
        gradient: Option<Gradient>,
    ) -> Result<Self, Failure> {
        match gradient {
            None => Choice::forward(device, spec, algorithm, ffi::FORWARD_INFERENCE),
            Some(of) => Choice::backward(device, spec, algorithm, of),
        }
    }

    fn forward(device: &Device, spec: &ConvSpec, algorithm: c_int, kind: c_int) -> Result<Self, Failure> {
        let dnnl = device.dnnl;
        let any = Descriptors::of_any(dnnl, spec)?;
        let (input, weights) = (any.input.as_ptr(), any.weights.as_ptr());
        let (bias, output) = (any.bias.as_ptr(), any.output.as_ptr());
        let window = Window::new(spec);
        let [strides, dilation, before, after] = window.as_ptrs();
        let engine = device.engine.object;
        let destroy = dnnl.destroy_primitive_desc;
        let description = match dnnl.generation {
            Generation::Two { init_convolution, create_primitive_desc, .. } => {
                let mut room: Box<ffi::OperationRoom> = Box::new([0; _]);
                let operation: Object = (&raw mut *room).cast();
                // SAFETY: the struct fits the room (see there); descriptors are alive; the others hold a
                // number for each of the two axes.
                let status = unsafe {
                    init_convolution(
                        operation, kind, algorithm, input, weights, bias, output, strides, dilation, before,
                        after,
                    )
                };
                check("dnnl_dilated_convolution_forward_desc_init", status)?;
                // SAFETY: the operation was just filled, the engine is alive; attributes and hint may be
                // null; the result goes where the function may write it.
                let create =
                    |object| unsafe { create_primitive_desc(object, operation, null(), engine, null()) };
                Owned::new("dnnl_primitive_desc_create", destroy, create)?
            }
            Generation::Three { create_convolution, .. } => {
                // SAFETY: as above.
                let create = |object| unsafe {
                    create_convolution(
                        object,
                        engine,
                        kind,
                        algorithm,
                        input,
                        weights,
                        bias,
                        output,
                        strides,
                        dilation,
                        before,
                        after,
                        null(),
                    )
                };
                Owned::new("dnnl_convolution_forward_primitive_desc_create", destroy, create)?
            }
        };
        Ok(Choice { dnnl, description })
    }

    /// The gradient of a convolution whose description is the library's hint, as it asks for.
    fn backward(device: &Device, spec: &ConvSpec, algorithm: c_int, of: Gradient) -> Result<Self, Failure> {
        let dnnl = device.dnnl;
        let hint = Choice::forward(device, spec, algorithm, ffi::FORWARD_TRAINING)?;
        let hint = hint.description.object;
        let any = Descriptors::of_any(dnnl, spec)?;
        let (input, weights) = (any.input.as_ptr(), any.weights.as_ptr());
        let (bias, output) = (any.bias.as_ptr(), any.output.as_ptr());
        let window = Window::new(spec);
        let [strides, dilation, before, after] = window.as_ptrs();
        let engine = device.engine.object;
        let destroy = dnnl.destroy_primitive_desc;
        let description = match dnnl.generation {
            Generation::Two { init_by_data, init_by_weights, create_primitive_desc, .. } => {
                let mut room: Box<ffi::OperationRoom> = Box::new([0; _]);
                let operation: Object = (&raw mut *room).cast();
                // SAFETY: the struct fits the room (see there); descriptors are alive; the others hold a
                // number for each of the two axes.
                let status = unsafe {
                    match of {
                        Gradient::BackwardData => init_by_data(
                            operation, algorithm, input, weights, output, strides, dilation, before, after,
                        ),
                        Gradient::BackwardWeights => init_by_weights(
                            operation, algorithm, input, weights, bias, output, strides, dilation, before,
                            after,
                        ),
                    }
                };
                check("dnnl_dilated_convolution_backward_desc_init", status)?;
                // SAFETY: the operation was just filled, engine and hint are alive; attributes may be null;
                // the result goes where the function may write it.
                let create =
                    |object| unsafe { create_primitive_desc(object, operation, null(), engine, hint) };
                Owned::new("dnnl_primitive_desc_create", destroy, create)?
            }
            Generation::Three { create_by_data, create_by_weights, .. } => {
                // SAFETY: as above.
                let create = |object| unsafe {
                    match of {
                        Gradient::BackwardData => create_by_data(
                            object,
                            engine,
                            algorithm,
                            input,
                            weights,
                            output,
                            strides,
                            dilation,
                            before,
                            after,
                            hint,
                            null(),
                        ),
                        Gradient::BackwardWeights => create_by_weights(
                            object,
                            engine,
                            algorithm,
                            input,
                            weights,
                            bias,
                            output,
                            strides,
                            dilation,
                            before,
                            after,
                            hint,
                            null(),
                        ),
                    }
                };
                Owned::new("dnnl_convolution_backward_primitive_desc_create", destroy, create)?
            }
        };
        Ok(Choice { dnnl, description })
    }

    /// The layout that it wants an array in.
    pub(super) fn layout(&self, array: Array) -> Result<Chosen<'_>, Failure> {
        let function = "dnnl_primitive_desc_query_md";
        let (what, index) = array.query();
        // SAFETY: the description is alive; of an array that it has not, the answer is null.
        let descriptor = unsafe { (self.dnnl.query_descriptor)(self.description.object, what, index) };
        if descriptor.is_null() {
            return Err(Failure { function, status: ffi::RUNTIME_ERROR });
        }
        Ok(Chosen { dnnl: self.dnnl, descriptor, of: PhantomData })
    }

    /// The library's name for the implementation.
    pub(super) fn implementation(&self) -> Result<String, Failure> {
        let mut name: *const c_char = null();
        self.query(ffi::QUERY_IMPLEMENTATION, (&raw mut name).cast())?;
        // SAFETY: for this query the library gives a text that lives as long as the description, or null.
        Ok(unsafe { ffi::text(name) })
    }

    /// Bytes of scratch memory.
    pub(super) fn scratch_bytes(&self) -> Option<usize> {
        let mut bytes = 0i64;
        self.query(ffi::QUERY_MEMORY_CONSUMPTION, (&raw mut bytes).cast()).ok()?;
        usize::try_from(bytes).ok()
    }

    /// `result` must be of the type that belongs to the query.
    fn query(&self, what: c_int, result: *mut c_void) -> Result<(), Failure> {
        // SAFETY: the description is alive; this function's two callers pass the type that the header names.
        let status = unsafe { (self.dnnl.query)(self.description.object, what, 0, result) };
        check("dnnl_primitive_desc_query", status)
    }

    /// What can be run.
    pub(super) fn primitive(&self) -> Result<Primitive, Failure> {
        Primitive::new(self.dnnl, &self.description)
    }
}

/// Strides, dilation and padding as the library counts them.
struct Window([Dims; 4]);

impl Window {
    fn new(spec: &ConvSpec) -> Self {
        let Padding { top, left, bottom, right } = spec.padding();
        // oneDNN counts dilation from 0.
        let dilation = spec.dilation().map(|n| n - 1);
        Window([dims(&spec.stride()), dims(&dilation), dims(&[top, left]), dims(&[bottom, right])])
    }

    fn as_ptrs(&self) -> [*const i64; 4] {
        self.0.each_ref().map(|dims| dims.as_ptr())
    }
}
