"""Smaller models: types where they belong, results close, gates that open and shut."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ocr_onnx_export.precision import gate_lines, gate_masks, mask_iou, matmul_to_int8, store_half, to_half
from ocr_onnx_export.rewrite import FOR_STAGE, rewrite

RNG = np.random.default_rng(3)
MASK = np.zeros((10, 10), np.float32)


def weights(*shape: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return values


def tiny_net() -> ModelProto:
    """A convolution, a batch norm as huge as the detector's, and one operation of every other kind."""
    constants: dict[str, NDArray[Any]] = {
        "w": weights(16, 3, 3, 3),
        "s": np.full(16, 1e4, np.float32),
        "b": weights(1, 16)[0],
        "m": weights(1, 16)[0],
        "v": np.full(16, 9.8e7, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "gain": np.ones(16, np.float32),
        "head": weights(16, 4) * 3,
    }
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        make("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        make("Relu", ["n"], ["r"]),
        make("Resize", ["r", "", "scales"], ["u"], mode="nearest"),
        make("Transpose", ["u"], ["t"], perm=[0, 2, 3, 1]),
        make("LayerNormalization", ["t", "gain"], ["l"], axis=-1),
        make("MatMul", ["l", "head"], ["d"]),
        make("Sigmoid", ["d"], ["g"]),
        make("Transpose", ["g"], ["y"], perm=[0, 3, 1, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, "A", "B"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"stage": "det"})
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: ModelProto, x: NDArray[Any]) -> NDArray[np.float32]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values: NDArray[np.float32] = np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
    return values


def input_type(model: ModelProto, op: str, place: int = 0) -> int:
    """Return the element type of an input of the first node `op`."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    name = next(each for each in inferred.node if each.op_type == op).input[place]
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {each.name: each.type.tensor_type.elem_type for each in values}
    types |= {each.name: each.data_type for each in inferred.initializer}
    return int(types[name])


X = RNG.normal(size=(2, 3, 6, 8)).astype(np.float32)


def test_half_precision_computes_the_same_within_its_precision() -> None:
    model = tiny_net()
    half = to_half(model)
    np.testing.assert_allclose(run(half, X), run(model, X), atol=5e-3)
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert half.metadata_props[0].value == "det"


@pytest.mark.parametrize(
    ("op", "place", "expected"),
    [
        ("Conv", 0, TensorProto.FLOAT16),
        ("Conv", 1, TensorProto.FLOAT16),
        ("Resize", 0, TensorProto.FLOAT16),
        ("Resize", 2, TensorProto.FLOAT),
        ("MatMul", 0, TensorProto.FLOAT16),
        ("LayerNormalization", 0, TensorProto.FLOAT),
        ("Sigmoid", 0, TensorProto.FLOAT),
    ],
)
def test_each_operation_has_its_precision(op: str, place: int, expected: int) -> None:
    assert input_type(to_half(tiny_net()), op, place) == expected


def test_bytes_are_normalised_in_full_precision() -> None:
    model = rewrite(tiny_net(), FOR_STAGE["det"])
    images = RNG.integers(0, 256, (1, 6, 8, 3), dtype=np.uint8)
    half = to_half(model)
    np.testing.assert_allclose(run(half, images), run(model, images), atol=5e-3)
    assert input_type(half, "Conv", 1) == TensorProto.FLOAT


def test_what_reads_an_output_reads_it_in_full_precision() -> None:
    """Halves of nearly equal probabilities would be equal, and another class the first of them."""
    make, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        make("MatMul", ["x", "head"], ["scores"]),
        make("Softmax", ["scores"], ["out"], axis=2),
        make("Reshape", ["out", "shape"], ["blocks"]),
        make("ReduceMax", ["blocks"], ["y"], axes=[3], keepdims=0),
    ]
    constants: dict[str, NDArray[Any]] = {"head": weights(4, 64), "shape": np.array([0, 0, 8, 8], np.int64)}
    graph = helper.make_graph(
        nodes,
        "classes",
        [info("x", TensorProto.FLOAT, ["N", "T", 4])],
        [info("out", TensorProto.FLOAT, ["N", "T", 64]), info("y", TensorProto.FLOAT, ["N", "T", 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert input_type(to_half(model), "MatMul") == TensorProto.FLOAT16
    assert input_type(to_half(model), "Reshape") == TensorProto.FLOAT


def test_stored_halves_are_half_the_size_and_computed_in_full() -> None:
    model = tiny_net()
    stored = store_half(model)
    np.testing.assert_allclose(run(stored, X), run(model, X), atol=5e-3)
    assert input_type(stored, "Conv", 1) == TensorProto.FLOAT
    kinds = {each.data_type: np.prod(each.dims) for each in stored.graph.initializer if len(each.dims) == 4}
    assert kinds == {TensorProto.FLOAT16: 16 * 3 * 9}


def test_what_float16_cannot_hold_is_stored_in_full() -> None:
    model = tiny_net()
    large = np.full((16, 4), 1e6, np.float32)
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(large, "head"))
    kept = {each.name: each.data_type for each in store_half(model).graph.initializer}
    assert kept["head"] == TensorProto.FLOAT
    assert input_type(to_half(model), "MatMul") == TensorProto.FLOAT


def test_matrices_in_int8() -> None:
    model = tiny_net()
    small = matmul_to_int8(model)
    ops = [each.op_type for each in small.graph.node]
    assert ("MatMul" in ops, ops.count("MatMulInteger"), ops.count("Conv")) == (False, 1, 1)
    difference = np.abs(run(small, X) - run(model, X)).max()
    assert 0 < difference < 0.05


def test_the_largest_products_in_int8_are_exact() -> None:
    """On a processor that adds pairs of products in 16 bits they would be cut off."""
    head = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 8])],
        [numpy_helper.from_array(np.ones((64, 8), np.float32), "w")],
    )
    model = helper.make_model(head, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.ones((8, 64), np.float32)
    np.testing.assert_allclose(run(matmul_to_int8(model), x), run(model, x), rtol=1e-5)


def test_masks_must_overlap() -> None:
    reference, shifted = MASK.copy(), MASK.copy()
    reference[2:8, 2:8] = 1
    shifted[2:8, 3:9] = 1
    assert mask_iou(reference, shifted) == pytest.approx(30 / 42)
    assert mask_iou(MASK, MASK) == 1
    gate = gate_masks([(reference, reference), (reference, shifted)])
    assert gate.worst == pytest.approx(30 / 42)
    assert (gate.samples, gate.passed) == (2, False)
    assert gate_masks([(reference, reference * 0.4)]).passed


def test_lines_must_be_equal() -> None:
    same = [("text", "text")] * 199
    assert gate_lines([*same, ("text", "test")]).passed
    assert not gate_lines([*same, ("text", "test"), ("a", "b")]).passed


def test_a_gate_without_samples_is_shut() -> None:
    assert not gate_masks([]).passed
    assert not gate_lines([]).passed
