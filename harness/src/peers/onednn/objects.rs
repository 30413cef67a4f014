//! The library's objects, each destroyed when it goes.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

use kernels::{ConvSpec, Layout};

use super::choice::{Array, Chosen};
use super::ffi::{
    self, Argument, ConstDescriptor, Destroy, Dims, Failure, Generation, Library, Object, check,
};
use crate::peers::nchw::{input_shape, output_shape};

/// An object of the library that is destroyed with this.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) object: Object,
    destroy: Destroy,
}

// SAFETY: the library's objects belong to no thread; one that is used by one thread at a time may be used by
// any.
unsafe impl Send for Owned {}

impl Owned {
    /// What a function makes, or why not.
    pub(super) fn new(
        function: &'static str,
        destroy: Destroy,
        create: impl FnOnce(*mut Object) -> ffi::Status,
    ) -> Result<Self, Failure> {
        let mut object = null_mut();
        check(function, create(&mut object))?;
        if object.is_null() {
            return Err(Failure { function, status: ffi::RUNTIME_ERROR });
        }
        Ok(Owned { object, destroy })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the object is alive, this was its only owner, and the function is the one for its kind.
        // There is nothing to do about a failure.
        let _ = unsafe { (self.destroy)(self.object) };
    }
}

/// The CPU, and the order in which it is given work. It must outlive what is made on it.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) dnnl: &'static Library,
    stream: Owned,
    pub(super) engine: Owned,
}

impl Device {
    pub(super) fn new(dnnl: &'static Library) -> Result<Self, Failure> {
        // SAFETY: the result goes where the function may write it.
        let create = |object| unsafe { (dnnl.create_engine)(object, ffi::ENGINE_CPU, 0) };
        let engine = Owned::new("dnnl_engine_create", dnnl.destroy_engine, create)?;
        // SAFETY: as above; the engine is alive.
        let create = |o| unsafe { (dnnl.create_stream)(o, engine.object, ffi::STREAM_IN_ORDER) };
        let stream = Owned::new("dnnl_stream_create", dnnl.destroy_stream, create)?;
        Ok(Device { dnnl, stream, engine })
    }

    /// Returns when all work is done.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        // SAFETY: the stream is alive.
        check("dnnl_stream_wait", unsafe { (self.dnnl.wait)(self.stream.object) })
    }
}

/// A layout of an array of f32s.
#[derive(Debug)]
pub(super) struct Descriptor(Form);

#[derive(Debug)]
enum Form {
    /// Version 2's struct, in more room than it needs.
    Two(Box<ffi::DescriptorRoom>),
    /// Version 3's object.
    Three(Owned),
}

impl Descriptor {
    /// Dimensions, in the order that the library has them, and their strides; without strides whatever the
    /// library likes best.
    fn new(dnnl: &Library, dims: &[usize], strides: Option<&[usize]>) -> Result<Self, Failure> {
        let rank = c_int::try_from(dims.len()).unwrap_or(c_int::MAX);
        let (dims, strides) = (self::dims(dims), strides.map(self::dims));
        let dims = dims.as_ptr();
        match dnnl.generation {
            Generation::Two { init_by_strides, init_by_tag, .. } => {
                let mut room: Box<ffi::DescriptorRoom> = Box::new([0; _]);
                let descriptor: Object = (&raw mut *room).cast();
                // SAFETY: the struct fits the room (see there); `dims` and `strides` hold as many numbers as
                // there are dimensions, or more.
                let status = unsafe {
                    match &strides {
                        Some(strides) => init_by_strides(descriptor, rank, dims, ffi::F32, strides.as_ptr()),
                        None => init_by_tag(descriptor, rank, dims, ffi::F32, ffi::TAG_ANY),
                    }
                };
                check("dnnl_memory_desc_init", status)?;
                Ok(Descriptor(Form::Two(room)))
            }
            Generation::Three { create_with_strides, create_with_tag, destroy_descriptor, .. } => {
                // SAFETY: as above; the result goes where the function may write it.
                let create = |object| unsafe {
                    match &strides {
                        Some(strides) => create_with_strides(object, rank, dims, ffi::F32, strides.as_ptr()),
                        None => create_with_tag(object, rank, dims, ffi::F32, ffi::TAG_ANY),
                    }
                };
                let owned = Owned::new("dnnl_memory_desc_create", destroy_descriptor, create)?;
                Ok(Descriptor(Form::Three(owned)))
            }
        }
    }

    pub(super) fn as_ptr(&self) -> ConstDescriptor {
        match &self.0 {
            Form::Two(room) => (&raw const **room).cast(),
            Form::Three(owned) => owned.object,
        }
    }
}

/// The layouts of a convolution's arrays.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub(super) input: Descriptor,
    pub(super) weights: Descriptor,
    pub(super) bias: Descriptor,
    pub(super) output: Descriptor,
}

impl Descriptors {
    /// That of an array: gradients are as what they are by.
    pub(super) fn of(&self, array: Array) -> &Descriptor {
        match array {
            Array::Input | Array::InputGradient => &self.input,
            Array::Weights | Array::WeightsGradient => &self.weights,
            Array::Bias | Array::BiasGradient => &self.bias,
            Array::Output | Array::OutputGradient => &self.output,
        }
    }

    /// As the spec has them.
    pub(super) fn of_user(dnnl: &Library, spec: &ConvSpec) -> Result<Self, Failure> {
        let image = |dims: [usize; 4]| {
            let [_, channels, height, width] = dims;
            let strides = match spec.layout() {
                Layout::Nchw => [channels * height * width, height * width, width, 1],
                Layout::Nhwc => [channels * height * width, 1, width * channels, channels],
            };
            Descriptor::new(dnnl, &dims, Some(&strides))
        };
        let weights = weights_dims(spec);
        let mut strides = vec![1; weights.len()];
        for axis in (1..weights.len()).rev() {
            strides[axis - 1] = strides[axis] * weights[axis];
        }
        Ok(Descriptors {
            input: image(input_shape(spec))?,
            weights: Descriptor::new(dnnl, &weights, Some(&strides))?,
            bias: Descriptor::new(dnnl, &[spec.out_channels()], Some(&[1]))?,
            output: image(output_shape(spec))?,
        })
    }

    /// As the library likes them best; the bias is always plain.
    pub(super) fn of_any(dnnl: &Library, spec: &ConvSpec) -> Result<Self, Failure> {
        Ok(Descriptors {
            input: Descriptor::new(dnnl, &input_shape(spec), None)?,
            weights: Descriptor::new(dnnl, &weights_dims(spec), None)?,
            bias: Descriptor::new(dnnl, &[spec.out_channels()], Some(&[1]))?,
            output: Descriptor::new(dnnl, &output_shape(spec), None)?,
        })
    }
}

/// With groups an axis more, in front.
fn weights_dims(spec: &ConvSpec) -> Vec<usize> {
    let [height, width] = spec.kernel();
    match spec.groups() {
        1 => vec![spec.out_channels(), spec.in_channels(), height, width],
        groups => vec![groups, spec.group_out_channels(), spec.group_in_channels(), height, width],
    }
}

/// Numbers of a spec, which are far below 2⁶³.
pub(super) fn dims(values: &[usize]) -> Dims {
    let mut dims = [0; _];
    for (dim, &value) in dims.iter_mut().zip(values) {
        *dim = i64::try_from(value).unwrap_or(i64::MAX);
    }
    dims
}

/// Something that the library can run.
#[derive(Debug)]
pub(super) struct Primitive {
    dnnl: &'static Library,
    primitive: Owned,
}

impl Primitive {
    pub(super) fn new(dnnl: &'static Library, description: &Owned) -> Result<Self, Failure> {
        // SAFETY: the description is alive; the result goes where the function may write it.
        let create = |object| unsafe { (dnnl.create_primitive)(object, description.object) };
        let primitive = Owned::new("dnnl_primitive_create", dnnl.destroy_primitive, create)?;
        Ok(Primitive { dnnl, primitive })
    }

    /// Runs it.
    ///
    /// # Safety
    /// The primitive takes arguments of these indices, the memories are in the layouts that it was made for,
    /// and what it writes to is not [`Memory::of`] something.
    unsafe fn execute(&self, device: &Device, arguments: &[Argument]) -> Result<(), Failure> {
        let count = c_int::try_from(arguments.len()).unwrap_or(c_int::MAX);
        let (primitive, stream) = (self.primitive.object, device.stream.object);
        // SAFETY: primitive, stream and memories are alive, the rest is the caller's word.
        let status = unsafe { (self.dnnl.execute)(primitive, stream, count, arguments.as_ptr()) };
        check("dnnl_primitive_execute", status)
    }
}

/// An array with its layout.
#[derive(Debug)]
pub(super) struct Memory<'a> {
    memory: Owned,
    of: PhantomData<&'a [f32]>,
}

impl<'a> Memory<'a> {
    fn create(device: &Device, descriptor: ConstDescriptor, data: *mut c_void) -> Result<Self, Failure> {
        let (create, engine) = (device.dnnl.create_memory, device.engine.object);
        // SAFETY: descriptor and engine are alive; this function's callers see to it that `data` is as large
        // as the descriptor says and outlives the result, or asks the library for memory.
        let create = |object| unsafe { create(object, descriptor, engine, data) };
        let memory = Owned::new("dnnl_memory_create", device.dnnl.destroy_memory, create)?;
        Ok(Memory { memory, of: PhantomData })
    }

    /// Memory of the library's own.
    pub(super) fn new(device: &Device, layout: Chosen<'_>) -> Result<Self, Failure> {
        Memory::create(device, layout.descriptor, ffi::ALLOCATE)
    }

    /// A slice, to be read only.
    pub(super) fn of(device: &Device, layout: &Descriptor, data: &'a [f32]) -> Result<Self, Failure> {
        check_len(device, layout, data.len())?;
        Memory::create(device, layout.as_ptr(), data.as_ptr().cast_mut().cast())
    }

    /// A slice, to be written to.
    pub(super) fn of_mut(device: &Device, layout: &Descriptor, data: &'a mut [f32]) -> Result<Self, Failure> {
        check_len(device, layout, data.len())?;
        Memory::create(device, layout.as_ptr(), data.as_mut_ptr().cast())
    }
}

fn check_len(device: &Device, layout: &Descriptor, len: usize) -> Result<(), Failure> {
    // SAFETY: the descriptor is alive.
    let bytes = unsafe { (device.dnnl.descriptor_size)(layout.as_ptr()) };
    let fits = Some(bytes) == len.checked_mul(size_of::<f32>());
    check("dnnl_memory_desc_get_size", if fits { ffi::SUCCESS } else { ffi::RUNTIME_ERROR })
}

/// Brings an array from one layout into another.
#[derive(Debug)]
pub(super) struct Reorder(Primitive);

impl Reorder {
    /// From a user's layout into the library's.
    pub(super) fn into_chosen(device: &Device, from: &Descriptor, to: Chosen<'_>) -> Result<Self, Failure> {
        Reorder::new(device, from.as_ptr(), to.descriptor)
    }

    /// From the library's layout into a user's.
    pub(super) fn from_chosen(device: &Device, from: Chosen<'_>, to: &Descriptor) -> Result<Self, Failure> {
        Reorder::new(device, from.descriptor, to.as_ptr())
    }

    fn new(device: &Device, from: ConstDescriptor, to: ConstDescriptor) -> Result<Self, Failure> {
        let (dnnl, engine) = (device.dnnl, device.engine.object);
        // SAFETY: descriptors and engine are alive; attributes may be null; the result goes where the
        // function may write it.
        let create = |object| unsafe { (dnnl.create_reorder)(object, from, engine, to, engine, null()) };
        let function = "dnnl_reorder_primitive_desc_create";
        let description = Owned::new(function, dnnl.destroy_primitive_desc, create)?;
        Ok(Reorder(Primitive::new(dnnl, &description)?))
    }

    /// Does it.
    ///
    /// # Safety
    /// The memories are in the layouts that this was made for, and `to` is not [`Memory::of`] something.
    pub(super) unsafe fn run(
        &self,
        device: &Device,
        from: &Memory<'_>,
        to: &Memory<'_>,
    ) -> Result<(), Failure> {
        let arguments = [
            Argument { index: ffi::ARG_SOURCE, memory: from.memory.object },
            Argument { index: ffi::ARG_DESTINATION, memory: to.memory.object },
        ];
        // SAFETY: a reorder takes these; the rest is the caller's word.
        unsafe { self.0.execute(device, &arguments) }
    }
}

/// An array of a convolution, in the library's layout.
#[derive(Debug)]
pub(super) struct Operand<'a> {
    pub(super) array: Array,
    pub(super) memory: Memory<'a>,
}

impl Primitive {
    /// Computes the convolution or gradient, so many times.
    ///
    /// # Safety
    /// This is what takes these arrays and no others, they are in the layouts that it was made for, and the results
    /// are not [`Memory::of`] something.
    pub(super) unsafe fn convolve(
        &self,
        device: &Device,
        operands: &[Operand<'_>],
        repeats: u64,
    ) -> Result<(), Failure> {
        let argument = |operand: &Operand<'_>| Argument {
            index: operand.array.argument(),
            memory: operand.memory.memory.object,
        };
        let arguments: Vec<Argument> = operands.iter().map(argument).collect();
        for _ in 0..repeats {
            // SAFETY: by the caller's promise.
            unsafe { self.execute(device, &arguments) }?;
        }
        device.wait()
    }
}
