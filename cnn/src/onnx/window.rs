//! Windows that move over the spatial axes of a value: what convolutions and pooling share.

use super::attributes::{int, ints, string};
use super::proto::Node;

/// Largest kernel, stride, dilation or padding: sums of products of two still fit 64 bits.
const MOST: i64 = i32::MAX as i64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum AutoPad {
    NotSet,
    Valid,
    SameUpper,
    SameLower,
}

/// How windows move, by a node's attributes; one entry for each spatial axis.
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) stride: Vec<usize>,
    pub(super) dilation: Vec<usize>,
    pads: Vec<[usize; 2]>,
    auto_pad: AutoPad,
    ceil: bool,
}

impl Window {
    /// The window of a node with this kernel.
    pub(super) fn of(node: &Node, kernel: &[usize]) -> Result<Self, String> {
        let axes = kernel.len();
        if let Some(wrong) = kernel.iter().find(|&&n| n == 0 || n as u64 > MOST as u64) {
            return Err(format!("its kernel has an extent of {wrong}, but must have 1 to {MOST}"));
        }
        let positive = |name: &str| -> Result<Vec<usize>, String> {
            match ints(node, name) {
                None => Ok(vec![1; axes]),
                Some(values) => numbers(name, values, axes, 1),
            }
        };
        let (stride, dilation) = (positive("strides")?, positive("dilations")?);
        let pads = match ints(node, "pads") {
            None => vec![[0; 2]; axes],
            Some(values) => {
                let values = numbers("pads", values, 2 * axes, 0)?;
                // All beginnings, then all ends.
                let (begin, end) = values.split_at(axes);
                begin.iter().zip(end).map(|(&begin, &end)| [begin, end]).collect()
            }
        };
        let auto_pad = match string(node, "auto_pad").as_deref() {
            None | Some("" | "NOTSET") => AutoPad::NotSet,
            Some("VALID") => AutoPad::Valid,
            Some("SAME_UPPER") => AutoPad::SameUpper,
            Some("SAME_LOWER") => AutoPad::SameLower,
            Some(_) => return Err("its auto_pad is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER".to_owned()),
        };
        let ceil = int(node, "ceil_mode") == Some(1);
        Ok(Window { kernel: kernel.to_vec(), stride, dilation, pads, auto_pad, ceil })
    }

    /// The window of a node that has its kernel as an attribute.
    pub(super) fn of_attributes(node: &Node, axes: usize) -> Result<Self, String> {
        let kernel = ints(node, "kernel_shape").ok_or("it has no kernel_shape")?;
        Self::of(node, &numbers("kernel_shape", kernel, axes, 1)?)
    }

    /// Extent of the dilated kernel.
    fn extent(&self, axis: usize) -> usize {
        self.dilation[axis] * (self.kernel[axis] - 1) + 1
    }

    /// Padding before and after an axis of an input.
    pub(super) fn padding(&self, axis: usize, input: usize) -> [usize; 2] {
        let same = || {
            let output = input.div_ceil(self.stride[axis]);
            let covered = (output.saturating_sub(1)) * self.stride[axis] + self.extent(axis);
            let total = covered.saturating_sub(input);
            [total / 2, total - total / 2]
        };
        match self.auto_pad {
            AutoPad::NotSet => self.pads[axis],
            AutoPad::Valid => [0, 0],
            AutoPad::SameUpper => same(),
            AutoPad::SameLower => {
                let [less, more] = same();
                [more, less]
            }
        }
    }

    /// Windows along an axis of an input.
    pub(super) fn output(&self, axis: usize, input: usize) -> Result<usize, String> {
        let [before, after] = self.padding(axis, input);
        let padded = input.saturating_add(before).saturating_add(after);
        let (extent, stride) = (self.extent(axis), self.stride[axis]);
        let Some(room) = padded.checked_sub(extent) else {
            return Err(format!("a kernel of extent {extent} does not fit a padded input of {padded}"));
        };
        if !self.ceil {
            return Ok(room / stride + 1);
        }
        // A last window must begin within the input or the padding before it.
        let output = room.div_ceil(stride) + 1;
        Ok(if (output - 1) * stride >= input.saturating_add(before) { output - 1 } else { output })
    }

    /// Outputs along an axis of a transposed convolution.
    pub(super) fn transposed(&self, axis: usize, input: usize, more: usize) -> Result<usize, String> {
        if matches!(self.auto_pad, AutoPad::SameUpper | AutoPad::SameLower) {
            return input.checked_mul(self.stride[axis]).ok_or_else(|| TOO_LARGE.to_owned());
        }
        let [before, after] = self.padding(axis, input);
        let spread = input.saturating_sub(1).checked_mul(self.stride[axis]);
        let whole =
            spread.and_then(|spread| spread.checked_add(self.extent(axis) + more)).ok_or(TOO_LARGE)?;
        match whole.checked_sub(before + after) {
            Some(output) if output > 0 => Ok(output),
            _ => Err("its padding is larger than its output".to_owned()),
        }
    }
}

/// A size that cannot be counted.
pub(super) const TOO_LARGE: &str = "a size of its output is too large";

/// So many numbers of an attribute, none less than `least`.
pub(super) fn numbers(name: &str, values: &[i64], count: usize, least: i64) -> Result<Vec<usize>, String> {
    if values.len() != count {
        return Err(format!("its {name} are {} numbers, but its axes need {count}", values.len()));
    }
    let number = |&value: &i64| match value {
        value if (least..=MOST).contains(&value) => Ok(value as usize),
        value => Err(format!("its {name} have {value}, but must be {least} to {MOST}")),
    };
    values.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::super::attributes::test::{ints_attribute, text_attribute};
    use super::*;
    use crate::onnx::proto::Attribute;

    fn window(attributes: Vec<Attribute>) -> Window {
        Window::of_attributes(&Node { attribute: attributes, ..Default::default() }, 1).unwrap()
    }

    fn ceil() -> Attribute {
        Attribute { name: "ceil_mode".to_owned(), i: 1, ..Default::default() }
    }

    #[test]
    fn automatic_padding() {
        let same = |rule, kernel, stride| {
            window(vec![
                ints_attribute("kernel_shape", &[kernel]),
                ints_attribute("strides", &[stride]),
                text_attribute("auto_pad", rule),
            ])
        };
        let upper = same("SAME_UPPER", 3, 2);
        assert_eq!((upper.padding(0, 224), upper.output(0, 224)), ([0, 1], Ok(112)));
        assert_eq!((upper.padding(0, 225), upper.output(0, 225)), ([1, 1], Ok(113)));
        assert_eq!(same("SAME_LOWER", 3, 2).padding(0, 224), [1, 0]);
        assert_eq!(same("SAME_UPPER", 1, 3).output(0, 10), Ok(4));
        assert_eq!(same("VALID", 3, 2).output(0, 224), Ok(111));
    }

    #[test]
    fn rounding_up_counts_no_window_of_padding_alone() {
        // SqueezeNet's pooling, and one whose last window would lie behind the input.
        let pool = |kernel, stride, pads: [i64; 2]| {
            window(vec![
                ints_attribute("kernel_shape", &[kernel]),
                ints_attribute("strides", &[stride]),
                ints_attribute("pads", &pads),
                ceil(),
            ])
        };
        assert_eq!(pool(3, 2, [0, 0]).output(0, 112), Ok(56));
        assert_eq!(pool(1, 2, [0, 1]).output(0, 3), Ok(2));
        assert_eq!(pool(2, 3, [1, 1]).output(0, 5), Ok(2));
    }

    #[test]
    fn broken_attributes_are_told() {
        let error = |attributes: Vec<Attribute>| {
            Window::of_attributes(&Node { attribute: attributes, ..Default::default() }, 1).err().unwrap()
        };
        assert_eq!(error(vec![]), "it has no kernel_shape");
        let kernel = || ints_attribute("kernel_shape", &[3]);
        assert!(error(vec![ints_attribute("kernel_shape", &[0])]).contains("have 0, but must be 1"));
        assert!(error(vec![kernel(), ints_attribute("pads", &[-1, 0])]).contains("have -1"));
        assert!(error(vec![kernel(), ints_attribute("pads", &[1])]).contains("are 1 numbers"));
        assert!(error(vec![kernel(), ints_attribute("strides", &[i64::MAX])]).contains("but must be"));
        assert!(error(vec![kernel(), text_attribute("auto_pad", "HALF")]).contains("auto_pad"));
    }
}
