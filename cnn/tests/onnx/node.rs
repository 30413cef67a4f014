//! ONNX's own tests of nodes: what is supported gives what they say, anything else is the error named here.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use cnn::{Inference, InferenceOptions, onnx};
use safetensors::SafeTensors;

/// Cases that are not supported, and what the error says.
const REFUSED: [(&str, &str); 32] = [
    ("add_bcast", "Add of `sum`: it adds a constant"),
    ("add_int16", "the input `x` is of int16, but must be of float32"),
    ("add_int8", "the input `x` is of int8, but must be of float32"),
    ("add_uint16", "the input `x` is of uint16, but must be of float32"),
    ("add_uint32", "the input `x` is of uint32, but must be of float32"),
    ("add_uint64", "the input `x` is of uint64, but must be of float32"),
    ("add_uint8", "the input `x` is of uint8, but must be of float32"),
    ("averagepool_3d_default", AXES),
    ("averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False", AXES),
    ("averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True", AXES),
    ("averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False", AXES),
    ("averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True", AXES),
    ("averagepool_3d_dilations_small", AXES),
    (
        "batchnorm_epsilon_training_mode",
        "has 3 outputs (`y`, `output_mean`, `output_var`), but 1 is supported",
    ),
    (
        "batchnorm_example_training_mode",
        "has 3 outputs (`y`, `output_mean`, `output_var`), but 1 is supported",
    ),
    ("flatten_axis0", "Flatten of `b`: makes [1, 120] of [2, 3, 4, 5]; supported is a row of features"),
    ("flatten_axis2", "Flatten of `b`: makes [6, 20] of [2, 3, 4, 5]"),
    ("flatten_axis3", "Flatten of `b`: makes [24, 5] of [2, 3, 4, 5]"),
    ("flatten_negative_axis1", "Flatten of `b`: makes [24, 5] of [2, 3, 4, 5]"),
    ("flatten_negative_axis2", "Flatten of `b`: makes [6, 20] of [2, 3, 4, 5]"),
    ("flatten_negative_axis4", "Flatten of `b`: makes [1, 120] of [2, 3, 4, 5]"),
    ("gemm_all_attributes", "Gemm of `y`: its transA makes columns of images"),
    ("gemm_default_matrix_bias", "Gemm of `y`: its constant `c` is of shape [3, 4], but must be of [4]"),
    ("gemm_transposeA", "Gemm of `y`: its transA makes columns of images"),
    ("maxpool_2d_uint8", "the input `x` is of uint8, but must be of float32"),
    ("maxpool_3d_default", AXES),
    ("maxpool_3d_dilations", AXES),
    ("maxpool_3d_dilations_use_ref_impl", AXES),
    ("maxpool_3d_dilations_use_ref_impl_large", AXES),
    ("maxpool_with_argmax_2d_precomputed_pads", "has 2 outputs (`y`, `z`), but 1 is supported"),
    ("maxpool_with_argmax_2d_precomputed_strides", "has 2 outputs (`y`, `z`), but 1 is supported"),
    ("softmax_axis_0", "Softmax of `y`: its axis is that of the batch, which is not supported"),
];

const AXES: &str = "the input `x` has 5 axes, but at most 4 are supported";

#[test]
fn onnxs_own_tests_of_nodes() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/node");
    let bytes = fs::read(folder.join("values.safetensors")).unwrap();
    let values = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| -> Vec<f32> {
        let tensor = values.tensor(name).unwrap();
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let models: BTreeSet<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect();
    assert_eq!(models.len(), 89);
    let mut refused = BTreeSet::new();
    for path in &models {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let refusal = REFUSED.iter().find(|(refused, _)| *refused == name);
        let model = match (onnx::load(path), refusal) {
            (Ok(model), None) => model,
            (Err(error), Some((name, wanted))) => {
                assert!(error.to_string().contains(wanted), "{name}: {error}");
                refused.insert(*name);
                continue;
            }
            (Ok(_), Some(_)) => panic!("{name} is supported"),
            (Err(error), None) => panic!("{name}: {error}"),
        };
        let (input, wanted) = (tensor(&format!("{name}.input")), tensor(&format!("{name}.output")));
        let batch = model.batch.unwrap();
        // A hundredth of what ONNX allows, but where it has written the values down with four digits.
        let tolerance = if name == "averagepool_2d_ceil_last_window_starts_on_pad" { 1e-3 } else { 1e-5 };
        for kernel in ["auto", "naive"] {
            let options = InferenceOptions { batch, kernel: kernel.to_owned(), ..Default::default() };
            let mut inference = Inference::new(&model.graph, &model.weights, &options).unwrap();
            let output = inference.run(&input).unwrap();
            assert_eq!(output.len(), wanted.len(), "{name}");
            for (y, wanted) in output.iter().zip(&wanted) {
                assert!((y - wanted).abs() <= 1e-6 + tolerance * wanted.abs(), "{name}: {y} for {wanted}");
            }
        }
    }
    assert_eq!(refused, REFUSED.iter().map(|(name, _)| *name).collect());
}
