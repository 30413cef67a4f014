"""ONNX's own tests of nodes, as models of one input and the values that they must give.

    pip install onnx==1.23.2 safetensors==0.8.0
    python make.py

The package `onnx` computes inputs and outputs with NumPy. What is changed of them, since a network here has one input
and constant weights:
- inputs behind the first become constants of the model;
- the two summands of `test_add` are picked by convolutions from one input that holds both;
- of pooling and global pooling, which treat channels alike, one channel is kept.
"""

import pathlib
import warnings

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from safetensors.numpy import save_file

OPERATORS = {
    "Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Gemm", "Relu", "BatchNormalization", "LRN", "Softmax",
    "Flatten", "Add",
}
FOLDER = pathlib.Path(__file__).parent


def value(name, array):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def summands(model, x, y):
    """A model whose one input holds both summands, channel behind channel."""
    channels = x.shape[1]
    both = np.concatenate([x, y], axis=1)
    nodes, constants = [], []
    for i, name in enumerate(model.graph.node[0].input):
        weights = np.zeros((channels, 2 * channels, 1), np.float32)
        weights[range(channels), range(i * channels, (i + 1) * channels)] = 1
        constants.append(numpy_helper.from_array(weights, f"pick {name}"))
        nodes.append(helper.make_node("Conv", ["both", f"pick {name}"], [name]))
    del model.graph.input[:]
    model.graph.input.append(value("both", both))
    model.graph.initializer.extend(constants)
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return both


def main():
    warnings.filterwarnings("ignore")
    for old in FOLDER.glob("*.onnx"):
        old.unlink()
    tensors = {}
    for case in collect_testcases(None):
        model = case.model
        nodes = model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in OPERATORS:
            continue
        name = case.name.removeprefix("test_")
        inputs, outputs = case.data_sets[0]
        given, wanted = inputs[0], outputs[0]
        if name == "add":
            given = summands(model, *inputs)
        else:
            for info, array in zip(list(model.graph.input)[1:], inputs[1:]):
                model.graph.initializer.append(numpy_helper.from_array(array, info.name))
                model.graph.input.remove(info)
        if "Pool" in nodes[0].op_type and given.ndim == 4 and given.dtype == np.float32:
            given, wanted = given[:, :1], wanted[:, :1]
            model.graph.input[0].CopyFrom(value(model.graph.input[0].name, given))
            model.graph.output[0].CopyFrom(value(model.graph.output[0].name, wanted))
        onnx.checker.check_model(model)
        (FOLDER / f"{name}.onnx").write_bytes(model.SerializeToString())
        if given.dtype == np.float32 and given.ndim < 5:
            tensors[f"{name}.input"] = np.ascontiguousarray(given)
            tensors[f"{name}.output"] = np.ascontiguousarray(wanted)
    save_file(tensors, FOLDER / "values.safetensors")


main()
