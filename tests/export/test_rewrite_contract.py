"""The fused input and output compute what normalising in numpy and reducing in numpy did."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ocr_onnx_export.finish import to_bytes
from ocr_onnx_export.rewrite import FOR_TARGET, Target, passes_for, rewrite
from ocr_onnx_export.rewrite.argmax_in_blocks import argmax_in_blocks
from ocr_onnx_export.rewrite.ctc_output import ctc_output
from ocr_onnx_export.rewrite.image_input import DET, LINE, Normalisation, image_input

Array = NDArray[np.float32]
RNG = np.random.default_rng(11)


def weights(*shape: int) -> Array:
    values: Array = (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return values


def learnable_affine(data: str, output: str) -> list[onnx.NodeProto]:
    """PP-LCNetV3's block: a scalar scale and shift, with the constant first as Paddle2ONNX writes it."""
    return [
        helper.make_node("Mul", ["a", data], [f"{output}.scaled"]),
        helper.make_node("Add", [f"{output}.scaled", "b"], [output]),
    ]


def tiny_recogniser(opset: int = 17) -> ModelProto:
    """Two blocks of PP-LCNetV3's kind, height pooled away, 5 classes, softmax over them."""
    constants = {
        "stem": weights(8, 3, 3, 3),
        "deep": weights(8, 1, 3, 3),
        "wide": weights(12, 8, 1, 1),
        "back": weights(8, 12, 1, 1),
        "a": np.array([1.3], np.float32),
        "b": np.array([-0.2], np.float32),
        "head": weights(8, 5) * 4,
        "bias": weights(1, 12, 1, 1),
    }
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "stem"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        *learnable_affine("c0", "l0"),
        make("Relu", ["l0"], ["r0"]),
        *learnable_affine("r0", "l1"),
        make("Conv", ["l1", "deep"], ["c1"], pads=[1, 1, 1, 1], group=8, kernel_shape=[3, 3]),
        make("HardSigmoid", ["c1"], ["s1"], alpha=1 / 6),
        make("Mul", ["c1", "s1"], ["h1"]),
        *learnable_affine("h1", "l2"),
        make("Conv", ["l2", "wide"], ["c2"], kernel_shape=[1, 1]),
        make("Add", ["c2", "bias"], ["d2"]),
        make("Relu", ["d2"], ["r2"]),
        make("Conv", ["r2", "back"], ["c3"], kernel_shape=[1, 1]),
        make("ReduceMean", ["c3"], ["m"], axes=[2], keepdims=0),
        make("Transpose", ["m"], ["t"], perm=[0, 2, 1]),
        make("MatMul", ["t", "head"], ["logits"]),
        make("Softmax", ["logits"], ["out"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny-rec",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, "W"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", "T", 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"character": "a\nb\nc", "stage": "rec"})
    onnx.checker.check_model(model)
    return model


def run(model: ModelProto, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, (np.asarray(value) for value in session.run(None, feeds)), strict=True))


def normalised(images: NDArray[np.uint8], how: Normalisation) -> Array:
    planes = (images / 255 - np.array(how.mean)) / np.array(how.std)
    return np.ascontiguousarray(planes.transpose(0, 3, 1, 2), dtype=np.float32)


@pytest.mark.parametrize("how", [DET, LINE])
def test_a_byte_picture_gives_what_the_normalised_one_gave_up_to_the_border(how: Normalisation) -> None:
    model = tiny_recogniser()
    images = RNG.integers(0, 256, (2, 8, 20, 3), dtype=np.uint8)
    fused = rewrite(model, (image_input(how, padded=False),))
    ours, original = run(fused, {"image": images}), run(model, {"x": normalised(images, how)})
    np.testing.assert_allclose(ours["out"], original["out"], atol=1e-6)
    assert [each.op_type for each in fused.graph.node[:4]] == ["Transpose", "Cast", "Sub", "Conv"]


def test_padding_is_zero_after_normalisation_whatever_the_pixels_hold() -> None:
    model = tiny_recogniser()
    images = RNG.integers(0, 256, (3, 8, 20, 3), dtype=np.uint8)
    valid_w = np.array([20, 7, 1], np.int32)
    padded = normalised(images, LINE)
    for line, width in zip(padded, valid_w, strict=True):
        line[:, :, width:] = 0
    fused = rewrite(model, (image_input(LINE, padded=True),))
    ours = run(fused, {"image": images, "valid_w": valid_w})["out"]
    np.testing.assert_allclose(ours, run(model, {"x": padded})["out"], atol=1e-6)


def test_a_graph_that_does_not_begin_with_a_convolution_is_scaled_by_itself() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, None, None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = RNG.integers(0, 256, (1, 5, 6, 3), dtype=np.uint8)
    ours = run(rewrite(model, (image_input(DET, padded=False),)), {"image": images})["y"]
    np.testing.assert_allclose(ours, np.maximum(normalised(images, DET), 0), atol=1e-6)


def test_the_best_class_and_its_probability_come_first_and_all_probabilities_last() -> None:
    model = tiny_recogniser()
    x = RNG.normal(size=(2, 3, 8, 20)).astype(np.float32)
    ours = run(rewrite(model, (ctc_output,)), {"x": x})
    probs = run(model, {"x": x})["out"]
    assert list(ours) == ["index", "prob", "probs"]
    assert ours["index"].dtype == np.int64
    np.testing.assert_array_equal(ours["index"], probs.argmax(axis=2))
    np.testing.assert_array_equal(ours["prob"], probs.max(axis=2))
    np.testing.assert_array_equal(ours["probs"], probs)


def soft_classes(classes: int, opset: int) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["out"], axis=2)],
        "classes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", classes])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", "T", classes])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("classes", [64, 6625, 15631])
def test_the_best_class_found_in_blocks_is_the_same_one(classes: int, opset: int) -> None:
    model = soft_classes(classes, opset)
    blocks = rewrite(model, (ctc_output, argmax_in_blocks))
    onnx.checker.check_model(blocks, full_check=True)
    assert [each.op_type for each in blocks.graph.node].count("ArgMax") == 2
    x = RNG.normal(size=(2, 31, classes)).astype(np.float32)
    x[0, :, :] = np.arange(31)[:, np.newaxis] == np.arange(classes)  # the best is at the very start
    x[1, 0], x[1, 1, -1] = 0.0, 50.0  # all classes equal; the very last one
    x[1, 2, [3, 5, classes // 2, classes - 1]] = 50.0  # equal within a block and between blocks
    ours, plain = run(blocks, {"x": x}), run(rewrite(model, (ctc_output,)), {"x": x})
    assert [*ours] == [*plain]
    for name, values in plain.items():
        np.testing.assert_array_equal(ours[name], values)
        assert ours[name].dtype == values.dtype
    assert ours["index"][1, :3].tolist() == [0, classes - 1, 3]


@pytest.mark.parametrize("classes", [5, 6619])
def test_classes_that_do_not_fall_into_blocks_stay_together(classes: int) -> None:
    model = rewrite(soft_classes(classes, 17), (ctc_output, argmax_in_blocks))
    assert [each.op_type for each in model.graph.node] == ["Softmax", "ArgMax", "ReduceMax"]


def test_an_argmax_without_a_maximum_beside_it_stays() -> None:
    model = rewrite(soft_classes(64, 17), (ctc_output,))
    del model.graph.node[2], model.graph.output[1]
    assert [each.op_type for each in rewrite(model, (argmax_in_blocks,)).graph.node] == ["Softmax", "ArgMax"]


def test_an_output_that_is_no_softmax_stays() -> None:
    model = tiny_recogniser()
    model.graph.node[-1].op_type = "Relu"
    del model.graph.node[-1].attribute[:]
    assert [each.name for each in rewrite(model, (ctc_output,)).graph.output] == ["out"]


def test_every_pass_together_keeps_results_metadata_and_bytes() -> None:
    model = tiny_recogniser()
    before = model.SerializeToString(deterministic=True)
    passes = passes_for("cpu", "rec")
    fused = rewrite(model, passes)
    onnx.checker.check_model(fused, full_check=True)
    images = RNG.integers(0, 256, (2, 8, 20, 3), dtype=np.uint8)
    ours = run(fused, {"image": images, "valid_w": np.array([20, 20], np.int32)})["probs"]
    np.testing.assert_allclose(ours, run(model, {"x": normalised(images, LINE)})["out"], atol=1e-5)
    assert {each.key: each.value for each in fused.metadata_props} == {"character": "a\nb\nc", "stage": "rec"}
    assert to_bytes(rewrite(model, passes)) == to_bytes(fused)
    assert model.SerializeToString(deterministic=True) == before
    ops = [each.op_type for each in fused.graph.node]
    # stem, depthwise, two pointwise; the one affine that padding keeps from being folded
    assert (ops.count("Conv"), ops.count("BatchNormalization"), ops.count("HardSwish")) == (4, 1, 1)
    assert not {"HardSigmoid", "Identity", "Constant"}.intersection(ops)


@pytest.mark.parametrize("target", ["cpu", "gpu", "openvino"])
def test_rewriting_twice_changes_nothing_more(target: Target) -> None:
    passes = FOR_TARGET[target]
    once = rewrite(tiny_recogniser(), passes)
    assert len(rewrite(once, passes).graph.node) == len(once.graph.node)


@pytest.mark.parametrize("opset", [11, 13, 16, 17])
def test_old_files_are_brought_forward_with_their_metadata(opset: int) -> None:
    model = tiny_recogniser(opset)
    fused = rewrite(model)
    x = RNG.normal(size=(1, 3, 8, 20)).astype(np.float32)
    np.testing.assert_allclose(run(fused, {"x": x})["out"], run(model, {"x": x})["out"], atol=1e-5)
    assert fused.metadata_props[0].key == "character"
    assert "HardSwish" in [each.op_type for each in fused.graph.node]


def test_a_graph_of_another_kind_comes_through_as_it_is() -> None:
    """Custom operations, 3-D data, integer arithmetic and several outputs are none of our business."""
    make = helper.make_node
    nodes = [
        make("Gather", ["table", "ids"], ["rows"], "gather"),
        make("Mul", ["rows", "scale"], ["scaled"], "mul"),
        make("LayerNormalization", ["scaled", "gain"], ["normed"], "norm", axis=-1),
        make("Special", ["normed"], ["special"], "special", domain="com.example", strength=3),
        make("Add", ["ids", "one"], ["next"], "add"),
    ]
    constants = {"table": weights(7, 4), "scale": weights(4), "gain": weights(4), "one": np.array(1)}
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [
            helper.make_tensor_value_info("special", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("next", TensorProto.INT64, ["N", "T"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    ours = rewrite(model, passes_for("cpu", "rec"))
    for each in (*ours.graph.node, *model.graph.node):
        each.ClearField("name")
    assert ours == model
