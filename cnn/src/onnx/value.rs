//! What is known of a value before anything runs: its shape, and its elements where shapes depend on them.

use std::rc::Rc;

use super::attributes::{int, ints};
use super::proto::{Node, Tensor};

/// An extent, where it is known.
pub(super) type Axis = Option<usize>;

/// Most axes of a value.
const MOST_AXES: usize = 16;

/// Largest extent, which is what the format can state: sums with what windows add still fit 64 bits.
const MOST_EXTENT: usize = i64::MAX as usize;

/// Most elements that are kept: a shape's, or a few more.
pub(super) const MOST_NUMBERS: usize = 64;

/// Elements that shapes are computed from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Numbers {
    Ints(Vec<i64>),
    Floats(Vec<f32>),
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Numbers::Ints(values) => values.len(),
            Numbers::Floats(values) => values.len(),
        }
    }
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) shape: Vec<Axis>,
    /// Its elements, if they are constant and few.
    pub(super) numbers: Option<Numbers>,
}

/// Why nothing is known of a value.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    /// What the node at hand says.
    Here(String),
    /// What an earlier one said.
    Before(Rc<str>),
}

impl Stop {
    /// Why, wherever that was.
    pub(super) fn into_reason(self) -> String {
        match self {
            Stop::Here(what) => what,
            Stop::Before(why) => why.to_string(),
        }
    }
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Stop::Here(what)
    }
}

impl From<&str> for Stop {
    fn from(what: &str) -> Self {
        Stop::Here(what.to_owned())
    }
}

impl Value {
    pub(super) fn of_shape(shape: Vec<Axis>) -> Self {
        Value { shape, numbers: None }
    }

    pub(super) fn with_numbers(shape: Vec<Axis>, numbers: Numbers) -> Self {
        Value { shape, numbers: Some(numbers) }
    }

    /// A list of elements.
    pub(super) fn list(numbers: Numbers) -> Self {
        Value::with_numbers(vec![Some(numbers.len())], numbers)
    }

    /// The value of a constant.
    pub(super) fn of_tensor(tensor: &Tensor) -> Result<Self, String> {
        let axis = |&n: &i64| usize::try_from(n).map_err(|_| format!("an extent of a constant is {n}"));
        let shape = tensor.dims.iter().take(MOST_AXES + 1).map(axis).collect::<Result<Vec<_>, _>>()?;
        let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
        let numbers =
            count.filter(|&count| count <= MOST_NUMBERS).and_then(|count| numbers_of(tensor, count));
        Value { shape: shape.into_iter().map(Some).collect(), numbers }.checked()
    }

    /// Refuses what no network has, so that no file can make shapes grow without end.
    pub(super) fn checked(mut self) -> Result<Self, String> {
        if self.shape.len() > MOST_AXES {
            return Err(format!(
                "a value has {} axes, but at most {MOST_AXES} are followed",
                self.shape.len()
            ));
        }
        if let Some(extent) = self.shape.iter().flatten().find(|&&extent| extent > MOST_EXTENT) {
            return Err(format!("a value has an extent of {extent}, but at most {MOST_EXTENT} are followed"));
        }
        self.numbers = self.numbers.filter(|numbers| numbers.len() <= MOST_NUMBERS);
        Ok(self)
    }

    /// Its elements, if they are known integers.
    pub(super) fn ints(&self) -> Option<&[i64]> {
        match &self.numbers {
            Some(Numbers::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// Number of its elements.
    pub(super) fn count(&self) -> Axis {
        product(&self.shape)
    }
}

/// Product of extents, if all are known and it can be counted.
pub(super) fn product(shape: &[Axis]) -> Axis {
    shape.iter().try_fold(1usize, |product, axis| product.checked_mul((*axis)?))
}

fn numbers_of(tensor: &Tensor, count: usize) -> Option<Numbers> {
    const FLOAT: i32 = 1;
    const INT32: i32 = 6;
    const INT64: i32 = 7;
    let raw = &tensor.raw_data;
    let numbers = match (tensor.data_type, raw.is_empty()) {
        (FLOAT, true) => Numbers::Floats(tensor.float_data.clone()),
        (FLOAT, false) => Numbers::Floats(elements(raw).map(f32::from_le_bytes).collect()),
        (INT64, true) => Numbers::Ints(tensor.int64_data.clone()),
        (INT64, false) => Numbers::Ints(elements(raw).map(i64::from_le_bytes).collect()),
        (INT32, false) => Numbers::Ints(elements(raw).map(i32::from_le_bytes).map(i64::from).collect()),
        _ => return None,
    };
    // Elements may also lie in another file.
    (numbers.len() == count && tensor.data_location == 0).then_some(numbers)
}

fn elements<const N: usize>(raw: &[u8]) -> impl Iterator<Item = [u8; N]> {
    raw.chunks_exact(N).filter_map(|chunk| chunk.try_into().ok())
}

/// A node with what is known of its inputs.
pub(super) struct Op<'a> {
    pub(super) node: &'a Node,
    /// `None` for one that is left out.
    pub(super) inputs: Vec<Option<&'a Result<Value, Rc<str>>>>,
}

impl<'a> Op<'a> {
    /// An input that may be left out.
    pub(super) fn optional(&self, index: usize) -> Result<Option<&'a Value>, Stop> {
        match self.inputs.get(index).copied().flatten() {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(why)) => Err(Stop::Before(Rc::clone(why))),
        }
    }

    /// An input.
    pub(super) fn value(&self, index: usize) -> Result<&'a Value, Stop> {
        self.optional(index)?.ok_or_else(|| Stop::Here(format!("it has no input {index}")))
    }

    /// Elements of an input that must be constant.
    pub(super) fn constant(&self, index: usize) -> Result<&'a [i64], Stop> {
        let what = || Stop::Here(format!("its input `{}` is not constant", self.input_name(index)));
        self.value(index)?.ints().ok_or_else(what)
    }

    /// Integers that older versions of an operator have as an attribute and newer ones as an input.
    pub(super) fn ints_of(&self, name: &str, index: usize) -> Result<Option<&'a [i64]>, Stop> {
        match ints(self.node, name) {
            Some(values) => Ok(Some(values)),
            None => match self.optional(index)? {
                None => Ok(None),
                Some(_) => self.constant(index).map(Some),
            },
        }
    }

    /// All inputs that are there.
    pub(super) fn values(&self) -> Result<Vec<&'a Value>, Stop> {
        let there = (0..self.inputs.len()).map(|index| self.optional(index));
        there.filter_map(Result::transpose).collect()
    }

    /// The attribute `axis`, counted from the front.
    pub(super) fn axis(&self, default: i64, axes: usize) -> Result<usize, String> {
        axis(int(self.node, "axis").unwrap_or(default), axes)
    }

    pub(super) fn input_name(&self, index: usize) -> String {
        shown(self.node.input.get(index).map_or("", String::as_str))
    }
}

/// An axis that may be counted from the end.
pub(super) fn axis(axis: i64, axes: usize) -> Result<usize, String> {
    let from_front = if axis < 0 { axis.saturating_add(axes as i64) } else { axis };
    match usize::try_from(from_front) {
        Ok(index) if index < axes => Ok(index),
        _ => Err(format!("it asks for axis {axis} of a value of {axes} axes")),
    }
}

/// A name of a file so that it fits in a line.
pub(super) fn shown(name: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    name.chars().take(80).map(plain).collect()
}
