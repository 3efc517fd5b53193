"""Op by op, PIR to ONNX: what ONNX Runtime makes of the translation against the same formula in numpy."""

from collections.abc import Callable, Mapping, Sequence
from math import erf, pi, sqrt
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ocr_onnx.errors import OcrError
from ocr_onnx.runtime import Device, open_session
from ocr_onnx_export.errors import ConversionError, UnsupportedOpError
from ocr_onnx_export.translate import supported_ops, translate
from tests.export.pir_programs import CONV, POOL, DType, IntArray, PirBuilder, tiny_det, tiny_rec

Array: TypeAlias = NDArray[Any]
RNG = np.random.default_rng(7)
IMAGE = RNG.normal(0, 2, (2, 3, 6, 8)).astype(np.float32)


def model_of(net: PirBuilder) -> onnx.ModelProto:
    model = translate(net.program(), net.parameters)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(net: PirBuilder, x: Array = IMAGE) -> Array:
    session = open_session("test", model_of(net).SerializeToString(), Device("cpu"), 1)
    result: Array = session.run(None, {"x": x})[0]
    return result


def one_op(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    operands: Callable[[PirBuilder], Sequence[int]] = lambda _: (),
    shape: Sequence[int] = (-1, 3, -1, -1),
    x_shape: Sequence[int] = (-1, 3, -1, -1),
) -> PirBuilder:
    """A program that feeds x into one op, with more operands behind it, and fetches the result."""
    net = PirBuilder()
    more = operands(net)
    x = net.feed(x_shape)
    net.fetch(net.op(name, [x, *more], shape, attributes), shape)
    return net


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


GELU = np.vectorize(lambda v: 0.5 * v * (1 + erf(v / sqrt(2))))


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("1.relu", {}, lambda x: np.maximum(x, 0)),
        ("1.relu6", {}, lambda x: np.clip(x, 0, 6)),
        ("1.sigmoid", {}, sigmoid),
        ("1.tanh", {}, np.tanh),
        ("1.exp", {}, np.exp),
        ("1.abs", {}, np.abs),
        ("1.swish", {}, lambda x: x * sigmoid(x)),
        ("1.silu", {}, lambda x: x * sigmoid(x)),
        ("1.hardswish", {}, lambda x: x * np.clip(x + 3, 0, 6) / 6),
        ("1.hardsigmoid", {"slope": 0.2, "offset": 0.4}, lambda x: np.clip(0.2 * x + 0.4, 0, 1)),
        ("1.leaky_relu", {"negative_slope": 0.1}, lambda x: np.where(x > 0, x, 0.1 * x)),
        ("1.pow", {"y": 2.0}, np.square),
        ("1.gelu", {"approximate": False}, GELU),
        (
            "1.gelu",
            {"approximate": True},
            lambda x: 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
        ),
        ("1.softmax", {"axis": -1}, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
        ("1.assign", {}, lambda x: x),
        ("1.cast", {"dtype": DType("float32")}, lambda x: x),
    ],
)
def test_one_operand(name: str, attributes: Mapping[str, Any], expected: Callable[[Array], Array]) -> None:
    np.testing.assert_allclose(run(one_op(name, attributes)), expected(IMAGE), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.add", np.add),
        ("1.subtract", np.subtract),
        ("1.multiply", np.multiply),
        ("1.divide", np.divide),
        ("1.maximum", np.maximum),
        ("1.minimum", np.minimum),
    ],
)
def test_two_operands_broadcast(name: str, expected: Callable[[Array, Array], Array]) -> None:
    other = RNG.uniform(0.5, 2, (3, 1, 1)).astype(np.float32)
    net = one_op(name, operands=lambda net: [net.parameter("p", other)])
    np.testing.assert_allclose(run(net), expected(IMAGE, other), rtol=1e-6)


@pytest.mark.parametrize(("after", "expected"), [(True, IMAGE * 2.0 + 0.5), (False, (IMAGE + 0.5) * 2.0)])
def test_scale(after: bool, expected: Array) -> None:
    attributes = {"bias": 0.5, "bias_after_scale": after}
    net = one_op("1.scale", attributes, lambda net: [net.number(2.0)])
    np.testing.assert_allclose(run(net), expected, rtol=1e-6)


def test_clip() -> None:
    net = one_op("1.clip", operands=lambda net: [net.number(-0.5), net.number(1.25)])
    np.testing.assert_array_equal(run(net), np.clip(IMAGE, -0.5, 1.25))


@pytest.mark.parametrize(("mode", "factor"), [("upscale_in_train", 1.0), ("downgrade_in_infer", 0.75)])
def test_dropout_at_inference(mode: str, factor: float) -> None:
    net = PirBuilder()
    x, rate = net.feed([-1, 3, -1, -1]), net.number(0.25)
    attributes = {"is_test": True, "mode": mode, "seed": 0, "fix_seed": False}
    y = net.op("1.dropout", [net.op("1.relu", [x], [-1, 3, -1, -1]), 0, rate], [-1, 3, -1, -1], attributes)
    net.fetch(y, [-1, 3, -1, -1])
    np.testing.assert_allclose(run(net), np.maximum(IMAGE, 0) * factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "expected"), [("mean", np.mean), ("max", np.max), ("min", np.min), ("sum", np.sum)]
)
@pytest.mark.parametrize("as_operand", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_reductions(op: str, expected: Callable[..., Array], as_operand: bool, keep: bool) -> None:
    shape = [-1, 3, 1, 1] if keep else [-1, 3]
    attributes = {"keepdim": keep} if as_operand else {"keepdim": keep, "axis": [-2, 3]}
    net = one_op(f"1.{op}", attributes, lambda net: [net.integers(-2, 3)] if as_operand else [], shape)
    np.testing.assert_allclose(run(net), expected(IMAGE, axis=(2, 3), keepdims=keep), rtol=1e-4, atol=1e-5)


def correlate(x: Array, weight: Array, pads: Sequence[int], strides: Sequence[int]) -> Array:
    """Convolution as a loop over the window."""
    top, bottom, left, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height, width = weight.shape[2:]
    rows = range(0, x.shape[2] - height + 1, strides[0])
    columns = range(0, x.shape[3] - width + 1, strides[1])
    out = np.zeros((len(x), len(weight), len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = x[:, :, row : row + height, column : column + width]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", window, weight)
    return out


@pytest.mark.parametrize(
    ("attributes", "kernel", "pads"),
    [
        ({}, (3, 3), (1, 1, 1, 1)),
        ({"strides": [2, 1]}, (3, 3), (1, 1, 1, 1)),
        ({"paddings": [1, 0, 2, 0]}, (2, 3), (1, 0, 2, 0)),
        ({"padding_algorithm": "VALID"}, (3, 3), (0, 0, 0, 0)),
        ({"padding_algorithm": "SAME"}, (2, 2), (0, 1, 0, 1)),
        ({"padding_algorithm": "SAME"}, (3, 3), (1, 1, 1, 1)),
        ({"padding_algorithm": "SAME", "strides": [2, 2]}, (3, 3), (0, 1, 0, 1)),
    ],
)
def test_conv2d(attributes: Mapping[str, Any], kernel: tuple[int, int], pads: Sequence[int]) -> None:
    weight = RNG.normal(0, 1, (4, 3, *kernel)).astype(np.float32)
    settings = {**CONV, **attributes}
    net = one_op("1.conv2d", settings, lambda net: [net.parameter("w", weight)], [-1, 4, -1, -1])
    np.testing.assert_allclose(run(net), correlate(IMAGE, weight, pads, settings["strides"]), atol=1e-4)


def test_depthwise_conv2d() -> None:
    weight = RNG.normal(0, 1, (3, 1, 3, 3)).astype(np.float32)
    net = one_op("1.depthwise_conv2d", {**CONV, "groups": 3}, lambda net: [net.parameter("w", weight)])
    expected = [correlate(IMAGE[:, c : c + 1], weight[c : c + 1], (1, 1, 1, 1), (1, 1)) for c in range(3)]
    np.testing.assert_allclose(run(net), np.concatenate(expected, axis=1), atol=1e-4)


def test_conv2d_transpose_spreads_each_pixel() -> None:
    weight = RNG.normal(0, 1, (3, 2, 2, 2)).astype(np.float32)
    settings = {**CONV, "strides": [2, 2], "paddings": [0, 0], "output_padding": []}
    net = one_op("1.conv2d_transpose", settings, lambda net: [net.parameter("w", weight)], [-1, 2, -1, -1])
    expected = np.einsum("nchw,coij->nohiwj", IMAGE, weight).reshape(2, 2, 12, 16)
    np.testing.assert_allclose(run(net), expected, atol=1e-4)


def test_batch_norm() -> None:
    mean, variance, scale, bias = (RNG.uniform(0.5, 2, 3).astype(np.float32) for _ in range(4))
    attributes = {
        "is_test": True,
        "momentum": 0.9,
        "epsilon": 1e-5,
        "data_format": "NCHW",
        "use_global_stats": False,
        "trainable_statistics": False,
    }
    values = {"mean": mean, "variance": variance, "scale": scale, "bias": bias}
    net = one_op("1.batch_norm_", attributes, lambda net: [net.parameter(*pair) for pair in values.items()])
    column = {name: value[:, None, None] for name, value in values.items()}
    expected = (IMAGE - column["mean"]) / np.sqrt(column["variance"] + 1e-5) * column["scale"] + column[
        "bias"
    ]
    np.testing.assert_allclose(run(net), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [2, 3])
def test_layer_norm(first: int) -> None:
    axes = tuple(range(first, 4))
    size = int(np.prod(IMAGE.shape[first:]))
    scale, bias = (RNG.uniform(0.5, 2, size).astype(np.float32) for _ in range(2))
    attributes = {"begin_norm_axis": first, "epsilon": 1e-5}
    net = one_op(
        "1.layer_norm",
        attributes,
        lambda net: [net.parameter("scale", scale), net.parameter("bias", bias)],
        IMAGE.shape,
        IMAGE.shape,
    )
    centred = IMAGE - IMAGE.mean(axes, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
    expected = normal * scale.reshape(IMAGE.shape[first:]) + bias.reshape(IMAGE.shape[first:])
    np.testing.assert_allclose(run(net), expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_without_weights() -> None:
    net = PirBuilder()
    x = net.feed([-1, 3, -1, 8])
    y = net.op("1.layer_norm", [x, 0, 0], [-1, 3, -1, 8], {"begin_norm_axis": 3, "epsilon": 1e-5})
    net.fetch(y, [-1, 3, -1, 8])
    assert abs(run(net).mean(-1)).max() < 1e-5


@pytest.mark.parametrize(("kind", "expected"), [("avg", np.mean), ("max", np.max)])
def test_pool2d(kind: str, expected: Callable[..., Array]) -> None:
    attributes = {**POOL, "pooling_type": kind}
    net = one_op("1.pool2d", attributes, lambda net: [net.integers(2, 2)])
    windows = IMAGE.reshape(2, 3, 3, 2, 4, 2)
    np.testing.assert_allclose(run(net), expected(windows, axis=(3, 5)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extra", [{"adaptive": True}, {"global_pooling": True}])
@pytest.mark.parametrize(("kind", "expected"), [("avg", np.mean), ("max", np.max)])
def test_pool2d_over_everything(extra: dict[str, bool], kind: str, expected: Callable[..., Array]) -> None:
    attributes = {**POOL, "pooling_type": kind, **extra}
    net = one_op("1.pool2d", attributes, lambda net: [net.integers(1, 1)], [-1, 3, 1, 1])
    np.testing.assert_allclose(run(net), expected(IMAGE, axis=(2, 3), keepdims=True), rtol=1e-4, atol=1e-6)


NEAREST = {
    "data_format": "NCHW",
    "out_d": -1,
    "out_h": -1,
    "out_w": -1,
    "scale": [2.0, 2.0],
    "interp_method": "nearest",
    "align_corners": False,
    "align_mode": 1,
}


@pytest.mark.parametrize("size", [{}, {"scale": [], "out_h": 12, "out_w": 16}, {"scale": [2.0]}])
def test_nearest_interp(size: dict[str, Any]) -> None:
    net = PirBuilder()
    x = net.feed([-1, 3, -1, -1])
    y = net.op("1.nearest_interp", [x, 0, 0, 0], [-1, 3, -1, -1], {**NEAREST, **size})
    net.fetch(y, [-1, 3, -1, -1])
    np.testing.assert_array_equal(run(net), IMAGE.repeat(2, axis=2).repeat(2, axis=3))


@pytest.mark.parametrize("transposed", [False, True])
def test_matmul(transposed: bool) -> None:
    weight = RNG.normal(0, 1, (8, 5)).astype(np.float32)
    stored = np.ascontiguousarray(weight.T) if transposed else weight
    attributes = {"transpose_x": False, "transpose_y": transposed}
    net = one_op("1.matmul", attributes, lambda net: [net.parameter("w", stored)], [-1, 3, -1, 5])
    np.testing.assert_allclose(run(net), IMAGE @ weight, rtol=1e-4, atol=1e-5)


def test_matmul_of_the_image_with_itself_turned() -> None:
    net = PirBuilder()
    x = net.feed([-1, 3, -1, -1])
    y = net.op("1.matmul", [x, x], [-1, 3, -1, -1], {"transpose_x": False, "transpose_y": True})
    net.fetch(y, [-1, 3, -1, -1])
    np.testing.assert_allclose(run(net), IMAGE @ IMAGE.swapaxes(2, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "attributes", "operands", "shape", "expected"),
    [
        ("1.transpose", {"perm": [0, 2, 3, 1]}, [], [-1, -1, -1, 3], IMAGE.transpose(0, 2, 3, 1)),
        ("1.flatten", {"start_axis": 2, "stop_axis": 3}, [], [-1, 3, -1], IMAGE.reshape(2, 3, 48)),
        ("1.reshape", {}, [[0, 3, -1]], [-1, 3, -1], IMAGE.reshape(2, 3, 48)),
        ("1.unsqueeze", {}, [[1, 3]], [-1, 1, 3, 1, -1, -1], IMAGE[:, None, :, None]),
        (
            "1.slice",
            {"axes": [1, 3], "infer_flags": [1, 1], "decrease_axis": []},
            [[1, 2], [3, 2**31 - 1]],
            [-1, 2, -1, -1],
            IMAGE[:, 1:3, :, 2:],
        ),
        (
            "1.slice",
            {"axes": [1], "infer_flags": [1], "decrease_axis": [1]},
            [[1], [2]],
            [-1, -1, -1],
            IMAGE[:, 1],
        ),
    ],
)
def test_shape_operations(
    name: str, attributes: Mapping[str, Any], operands: Sequence[list[int]], shape: list[int], expected: Array
) -> None:
    net = one_op(name, attributes, lambda net: [net.integers(*values) for values in operands], shape)
    np.testing.assert_array_equal(run(net), expected)


def test_flatten_before_a_known_size() -> None:
    attributes = {"start_axis": 1, "stop_axis": 2}
    net = one_op("1.flatten", attributes, shape=[-1, -1, 8], x_shape=[-1, 3, -1, 8])
    np.testing.assert_array_equal(run(net), IMAGE.reshape(2, 18, 8))


def test_squeeze_leaves_what_is_not_one() -> None:
    net = one_op("1.squeeze", {}, lambda net: [net.integers(0, 2)], [2, 3], [2, 3, 1])
    np.testing.assert_array_equal(run(net, IMAGE[:, :, :1, 0]), IMAGE[:, :, 0, 0])


def test_concat_and_stack() -> None:
    net = PirBuilder()
    x = net.feed([-1, 3, -1, -1])
    twice = net.op("1.concat", [net.combine(x, x), net.number(1, "int32")], [-1, 6, -1, -1])
    pair = net.op("1.stack", [net.combine(twice, twice)], [-1, 2, 6, -1, -1], {"axis": 1})
    net.fetch(pair, [-1, 2, 6, -1, -1])
    both = np.concatenate([IMAGE, IMAGE], axis=1)
    np.testing.assert_array_equal(run(net), np.stack([both, both], axis=1))


@pytest.mark.parametrize("equal", [True, False])
def test_split(equal: bool) -> None:
    net = PirBuilder()
    x = net.feed([-1, 3, -1, 8])
    axis = net.number(3, "int32")
    sizes = [4, 4] if equal else [3, 5]
    if equal:
        parts = net.op("1.split_with_num", [x, axis], [-1, 3, -1, 4], {"num": 2})
    else:
        parts = net.op("1.split", [x, net.integers(*sizes), axis], [-1, 3, -1, 3])
    net.fetch(net.part(parts, 1, [-1, 3, -1, sizes[1]]), [-1, 3, -1, sizes[1]])
    np.testing.assert_array_equal(run(net), IMAGE[:, :, :, sizes[0] :])


def test_expand() -> None:
    net = one_op("1.expand", {}, lambda net: [net.integers(2, -1, 4)], [2, 2, 4], [-1, 1])
    np.testing.assert_array_equal(
        run(net, IMAGE[0, 0, :2, :1]), np.broadcast_to(IMAGE[0, 0, :2, :1], (2, 2, 4))
    )


def test_shape_arithmetic() -> None:
    """A reshape to (batch, 3, -1), its batch taken from the shape, as attention blocks have it."""
    net = PirBuilder()
    x = net.feed([-1, 3, -1, -1])
    shape = net.op("1.shape64", [x], [4], dtype="i64")
    cut = {"axes": [0], "infer_flags": [1], "decrease_axis": [0]}
    batch = net.op("1.slice", [shape, net.integers(0), net.integers(1)], [], cut, "i64")
    target = net.combine(batch, net.number(3, "int64"), net.number(-1, "int64"))
    net.fetch(net.op("1.reshape", [x, target], [-1, 3, -1]), [-1, 3, -1])
    np.testing.assert_array_equal(run(net), IMAGE.reshape(2, 3, 48))


def test_reshaped_parameter_is_a_constant() -> None:
    model = model_of(tiny_det())
    assert [node.op_type for node in model.graph.node] == ["Conv", "Add", "Sigmoid"]
    assert [list(entry.dims) for entry in model.graph.initializer] == [[1, 3, 3, 3], [1, 1, 1, 1]]
    assert model.graph.output[0].name == "y"


def test_same_program_gives_the_same_bytes() -> None:
    first, second = (model_of(tiny_rec()).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_value_fetched_twice_keeps_both_names() -> None:
    net = PirBuilder()
    x = net.feed([-1, 3, -1, -1])
    y = net.op("1.relu", [x], [-1, 3, -1, -1])
    net.fetch(y, [-1, 3, -1, -1], "first")
    net.fetch(y, [-1, 3, -1, -1], "second")
    session = open_session("test", model_of(net).SerializeToString(), Device("cpu"), 1)
    first, second = session.run(["first", "second"], {"x": IMAGE})
    np.testing.assert_array_equal(first, second)


def test_supported_ops_are_sorted_and_named_in_full() -> None:
    names = supported_ops()
    assert list(names) == sorted(set(names))
    assert {"pd_op.conv2d", "builtin.combine", "pd_op.gelu"} <= set(names)


LINE = [-1, 3, -1, -1]


@pytest.mark.parametrize(
    ("net", "problem"),
    [
        (one_op("1.erfinv", {"flag": True}), r"operation 1 \(pd_op.erfinv\).*no translation.*flag"),
        (one_op("1.relu", {"beta": 2.0}), r"pd_op.relu.*beta = 2.0"),
        (one_op("1.gelu"), "lacks the attribute approximate"),
        (one_op("1.gelu", {"approximate": 1}), "where true or false belongs"),
        (one_op("1.softmax", {"axis": 4}), "axis 4 of a tensor with 4"),
        (one_op("1.softmax", {"axis": 1.0}), "where an integer belongs"),
        (one_op("1.pow", {"y": "2"}), "where a number belongs"),
        (one_op("1.add"), "lacks a tensor as operand 1"),
        (one_op("1.concat"), "lacks a list of tensors"),
        (one_op("1.conv2d", {**CONV, "data_format": "NHWC"}, lambda n: [n.parameter("w", IMAGE)]), "NHWC"),
        (one_op("1.conv2d", {**CONV, "strides": [1]}, lambda n: [n.parameter("w", IMAGE)]), "not two sizes"),
        (one_op("1.conv2d", {**CONV, "paddings": [1]}, lambda n: [n.parameter("w", IMAGE)]), "1 paddings"),
        (one_op("1.conv2d", {**CONV, "dilations": []}, lambda n: [n.parameter("w", IMAGE)]), "dilations"),
        (one_op("1.conv2d", {**CONV, "groups": 0}, lambda n: [n.parameter("w", IMAGE)]), "0 groups"),
        (one_op("1.mean", {"axis": [], "keepdim": False}, x_shape=[]), "has no axes"),
        (one_op("1.pool2d", {**POOL, "adaptive": True}, lambda n: [n.integers(2, 2)]), "to a fixed size"),
        (one_op("1.reshape"), "lacks a list of tensors as operand 1"),
        (one_op("1.transpose", {"perm": [0, 0, 1, 2]}), "reorders 4 dimensions"),
        (one_op("1.unsqueeze", {}, lambda n: [n.integers(2, 1)]), "in the order"),
        (one_op("1.squeeze", {}, lambda n: [n.integers(0)], [-1, 3, -1, -1]), "may not have size 1"),
        (one_op("1.cast", {"dtype": DType("complex64")}), "complex64"),
        (
            one_op("1.scale", {"bias": 0.0, "bias_after_scale": True}, lambda n: [n.integers(1, 2)]),
            "2 numbers",
        ),
        (one_op("1.expand", {}, lambda n: [n.integers(0)]), "expands to"),
        (one_op("1.dropout", {"is_test": False, "mode": "upscale_in_train"}), "as in training"),
        (one_op("1.split_with_num", {"num": 2}, lambda n: [n.number(1, "int32")]), "cuts 3 into 2"),
    ],
)
def test_what_can_not_be_translated_is_named(net: PirBuilder, problem: str) -> None:
    with pytest.raises(UnsupportedOpError, match=f"(?s){problem}"):
        translate(net.program(), net.parameters)


@pytest.mark.parametrize(("shape", "value"), [([2**20, 2**20], 1.0), ([-1], 1.0), ([1], 1e30), ([1], 0.5)])
def test_constants_are_bounded(shape: list[int], value: float) -> None:
    net = PirBuilder()
    net.feed(LINE)
    net.op("1.full", [], [1], {"shape": IntArray(shape), "value": value, "dtype": DType("int64")}, "i64")
    with pytest.raises(UnsupportedOpError):
        translate(net.program(), {})


def test_computed_operand_where_a_constant_belongs() -> None:
    net = PirBuilder()
    x = net.feed([-1])
    net.op("1.scale", [x, x], [-1], {"bias": 0.0, "bias_after_scale": True})
    with pytest.raises(UnsupportedOpError, match="computes operand 1"):
        translate(net.program(), {})


def test_only_floats_come_in() -> None:
    net = PirBuilder()
    net.op("1.feed", [], [-1], {"name": "x", "col": 0}, "i64")
    with pytest.raises(UnsupportedOpError, match="feeds the element type i64"):
        translate(net.program(), {})


def test_program_without_an_end() -> None:
    net = PirBuilder()
    net.feed(LINE)
    with pytest.raises(ConversionError, match="no input or no output"):
        translate(net.program(), {})


def test_parameter_that_takes_a_generated_name() -> None:
    net = one_op("1.pow", {"y": 2.0}, lambda net: [net.parameter("constant_0", IMAGE)])
    used = one_op("1.add", operands=lambda net: [net.parameter("constant_1", IMAGE)])
    assert model_of(used).graph.initializer[0].name == "constant_1"
    assert model_of(net).graph.initializer[0].name == "constant_0"  # the parameter itself is not used
    both = PirBuilder()
    weight, x = both.parameter("constant_1", IMAGE), both.feed(LINE)
    both.fetch(both.op("1.pow", [both.op("1.add", [x, weight], LINE)], LINE, {"y": 2.0}), LINE)
    with pytest.raises(ConversionError, match="constant_1"):
        translate(both.program(), both.parameters)


PROGRAM = tiny_rec().document()["program"]["regions"][0]["blocks"][0]["ops"]
NUMBERS = st.one_of(st.integers(-9, 99), st.integers(2**31 - 2, 2**31), st.integers(-(2**63), 2**63 - 1))


@given(data=st.data())
def test_a_program_with_odd_figures_is_translated_or_refused(data: st.DataObject) -> None:
    net = tiny_rec()
    op = data.draw(st.sampled_from(net.ops[1:]))
    odd = {
        "#": "0.a_array",
        "D": [{"#": "0.a_i64", "D": data.draw(NUMBERS)} for _ in range(data.draw(st.integers(0, 4)))],
    }
    if op["A"]:
        data.draw(st.sampled_from(op["A"]))["AT"] = odd
    op["O"][0]["TT"] = {
        "#": "0.t_dtensor",
        "D": [{"#": "0.t_f32"}, data.draw(st.lists(st.integers(-1, 9), max_size=5))],
    }
    try:
        model = translate(net.program(), net.parameters)
    except OcrError:
        return
    assert model.graph.node
