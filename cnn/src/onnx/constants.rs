//! A model's constants as numbers.

use super::proto::{FLOAT, Tensor};
use super::value::shown;

/// The values of a constant that must be float32.
///
/// # Errors
/// When they are of another type, lie in another file, or are not as many as the shape says.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>, String> {
    let name = shown(&tensor.name);
    if tensor.data_type != FLOAT {
        return Err(format!(
            "its constant `{name}` is of {}, but must be of float32",
            type_name(tensor.data_type)
        ));
    }
    if tensor.data_location != 0 {
        return Err(format!(
            "its constant `{name}` lies in another file; export the model with its weights inside"
        ));
    }
    let (words, rest) = tensor.raw_data.as_chunks::<4>();
    let there = words.len() + tensor.float_data.len();
    if !rest.is_empty() || count(&tensor.dims) != Some(there) {
        let dims = &tensor.dims[..tensor.dims.len().min(16)];
        return Err(format!("its constant `{name}` of shape {dims:?} has {there} values"));
    }
    Ok(match words {
        [] => tensor.float_data.clone(),
        words => words.iter().map(|word| f32::from_le_bytes(*word)).collect(),
    })
}

/// Whether a constant is `true`; `None` if it is no single truth value.
pub(super) fn truth(tensor: &Tensor) -> Option<bool> {
    match (tensor.data_type, &tensor.raw_data[..], tensor.int32_data.as_slice()) {
        (9, &[byte], []) => Some(byte != 0),
        (9, [], &[n]) => Some(n != 0),
        _ => None,
    }
}

fn count(dims: &[i64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |count, &n| count.checked_mul(usize::try_from(n).ok()?))
}

/// What the format calls a type of elements.
pub(super) fn type_name(data_type: i32) -> String {
    let name = match data_type {
        1 => "float32",
        2 => "uint8",
        3 => "int8",
        4 => "uint16",
        5 => "int16",
        6 => "int32",
        7 => "int64",
        8 => "string",
        9 => "bool",
        10 => "float16",
        11 => "double",
        12 => "uint32",
        13 => "uint64",
        14 => "complex64",
        15 => "complex128",
        16 => "bfloat16",
        n => return format!("type {n}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_many_as_the_shape_says() {
        let tensor = Tensor::float("w", &[2, 1], &[1.0, -2.0]);
        assert_eq!(floats(&tensor), Ok(vec![1.0, -2.0]));
        let listed = Tensor { raw_data: Default::default(), float_data: vec![1.0, -2.0], ..tensor.clone() };
        assert_eq!(floats(&listed), floats(&tensor));
        let message = |tensor: Tensor| floats(&tensor).unwrap_err();
        let both = Tensor { float_data: vec![1.0], ..tensor.clone() };
        assert_eq!(message(both), "its constant `w` of shape [2, 1] has 3 values");
        for dims in [vec![2], vec![-2, -1], vec![i64::MAX, i64::MAX], vec![3], vec![1 << 62, 4, 2]] {
            let wrong = Tensor { dims, raw_data: tensor.raw_data.slice(..4), ..tensor.clone() };
            assert!(message(wrong).ends_with("has 1 values"));
        }
        let cut = Tensor { raw_data: tensor.raw_data.slice(..7), ..tensor.clone() };
        assert!(message(cut).ends_with("has 1 values"));
        assert!(message(Tensor { data_type: 11, ..tensor.clone() }).contains("is of double"));
        assert!(message(Tensor { data_type: 99, ..tensor.clone() }).contains("is of type 99"));
        assert!(message(Tensor { data_location: 1, ..tensor }).contains("lies in another file"));
        // None at all, of which there are as many as the shape says.
        assert_eq!(floats(&Tensor::float("w", &[0, 7], &[])), Ok(vec![]));
    }
}
