"""Each pass on a tiny graph: it finds its pattern, computes the same, and keeps away where it must."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ocr_onnx_export.rewrite import rewrite
from ocr_onnx_export.rewrite.affine_to_batch_norm import affine_to_batch_norm
from ocr_onnx_export.rewrite.align_channels import align_channels
from ocr_onnx_export.rewrite.fold_affine_after import fold_affine_after
from ocr_onnx_export.rewrite.fold_affine_before import fold_affine_before
from ocr_onnx_export.rewrite.fold_constants import fold_constants
from ocr_onnx_export.rewrite.fuse_gate import fuse_gate
from ocr_onnx_export.rewrite.fuse_hard_swish import fuse_hard_swish
from ocr_onnx_export.rewrite.graph import Graph, Pass
from ocr_onnx_export.rewrite.merge_pointwise import merge_pointwise
from ocr_onnx_export.rewrite.remove_dead import remove_dead, remove_identities, remove_round_trips
from ocr_onnx_export.rewrite.upsample_last import upsample_last

F32 = NDArray[np.float32]
RNG = np.random.default_rng(7)
op = helper.make_node


def weights(*shape: int) -> F32:
    return RNG.normal(size=shape).astype(np.float32)


def model_of(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, NDArray[Any] | F32],
    *,
    channels: int = 4,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, "H", "W"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def run(model: ModelProto, x: F32) -> list[F32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def check(model: ModelProto, passes: Sequence[Pass], expected_ops: Sequence[str]) -> ModelProto:
    """Rewrite, compare the results on a random picture, and compare what operations are left."""
    changed = rewrite(model, passes)
    onnx.checker.check_model(changed, full_check=True)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = weights(2, channels, 7, 9)
    for ours, original in zip(run(changed, x), run(model, x), strict=True):
        np.testing.assert_allclose(ours, original, rtol=2e-5, atol=2e-5)
    assert [each.op_type for each in changed.graph.node] == list(expected_ops)
    return changed


def batch_norm(channels: int, name: str) -> tuple[dict[str, F32], list[str]]:
    values: dict[str, F32] = {
        f"{name}.s": weights(channels),
        f"{name}.b": weights(channels),
        f"{name}.m": weights(channels),
        f"{name}.v": np.abs(weights(channels)) + np.float32(0.5),
    }
    return values, list(values)


class TestFoldAffineAfter:
    def test_batch_norm_bias_and_learnable_scale_go_into_the_convolution(self) -> None:
        norm, names = batch_norm(6, "bn")
        constants = {
            "w": weights(6, 4, 3, 3),
            "c": weights(1, 6, 1, 1),
            "a": weights(1),
            "b": weights(6, 1, 1),
        }
        nodes = [
            op("Conv", ["x", "w"], ["t0"], pads=[1, 1, 1, 1]),
            op("BatchNormalization", ["t0", *names], ["t1"], epsilon=1e-3),
            op("Add", ["t1", "c"], ["t2"]),
            op("Mul", ["a", "t2"], ["t3"]),
            op("Sub", ["b", "t3"], ["t4"]),
            op("Div", ["t4", "a"], ["y"]),
        ]
        check(model_of(nodes, constants | norm), (fold_affine_after,), ["Conv"])

    @pytest.mark.parametrize("group", [1, 2])
    def test_transposed_convolutions_have_their_output_channels_second(self, group: int) -> None:
        norm, names = batch_norm(3 * group, "bn")
        nodes = [
            op("ConvTranspose", ["x", "w", "c"], ["t"], strides=[2, 2], group=group),
            op("BatchNormalization", ["t", *names], ["y"]),
        ]
        constants = {"w": weights(4, 3, 2, 2), "c": weights(3 * group)}
        check(model_of(nodes, constants | norm), (fold_affine_after,), ["ConvTranspose"])

    def test_a_result_that_others_read_stays(self) -> None:
        nodes = [
            op("Conv", ["x", "w"], ["t"]),
            op("Mul", ["t", "a"], ["y"]),
            op("Relu", ["t"], ["z"]),
        ]
        model = model_of(nodes, {"w": weights(4, 4, 1, 1), "a": weights(1)}, outputs=("y", "z"))
        check(model, (fold_affine_after,), ["Conv", "Mul", "Relu"])

    def test_a_constant_along_the_width_is_not_per_channel(self) -> None:
        nodes = [op("Conv", ["x", "w"], ["t"]), op("Mul", ["t", "a"], ["y"])]
        model = model_of(nodes, {"w": weights(9, 4, 1, 1), "a": weights(9)})
        check(model, (fold_affine_after,), ["Conv", "Mul"])

    def test_a_constant_that_widens_the_tensor_is_left_alone(self) -> None:
        nodes = [op("Conv", ["x", "w"], ["t"]), op("Mul", ["t", "a"], ["y"])]
        model = model_of(nodes, {"w": weights(1, 4, 1, 1), "a": weights(1, 5, 1, 1)})
        check(model, (fold_affine_after,), ["Conv", "Mul"])


class TestFoldAffineBefore:
    def model(self, *, group: int = 1, pads: Sequence[int] = (0, 0, 0, 0), shift: bool = True) -> ModelProto:
        constants = {"w": weights(6, 4, 1, 1), "a": weights(1, 6, 1, 1), "b": weights(1)}
        constants |= {"v": weights(6, 6 // group, 3, 3), "c": weights(6)}
        nodes = [op("Conv", ["x", "w"], ["t0"]), op("Relu", ["t0"], ["t1"]), op("Mul", ["t1", "a"], ["t2"])]
        if shift:
            nodes.append(op("Add", ["t2", "b"], ["t3"]))
        data = "t3" if shift else "t2"
        nodes.append(op("Conv", [data, "v", "c"], ["y"], pads=pads, group=group))
        return model_of(nodes, constants)

    @pytest.mark.parametrize("group", [1, 2, 6])
    def test_scale_and_shift_go_into_an_unpadded_convolution(self, group: int) -> None:
        check(self.model(group=group), (fold_affine_before,), ["Conv", "Relu", "Conv"])

    def test_a_shift_stays_before_padding(self) -> None:
        model = self.model(group=6, pads=(1, 1, 1, 1))
        check(model, (fold_affine_before,), ["Conv", "Relu", "Mul", "Add", "Conv"])

    def test_a_scale_alone_passes_padding(self) -> None:
        model = self.model(group=6, pads=(1, 1, 1, 1), shift=False)
        check(model, (fold_affine_before,), ["Conv", "Relu", "Conv"])

    def test_the_mean_is_taken_before_scale_and_shift(self) -> None:
        nodes = [
            op("Conv", ["x", "w"], ["t0"]),
            op("Relu", ["t0"], ["t1"]),
            op("Mul", ["t1", "a"], ["t2"]),
            op("Add", ["t2", "b"], ["t3"]),
            op("GlobalAveragePool", ["t3"], ["t4"]),
            op("Conv", ["t4", "v"], ["t5"]),
            op("Mul", ["t3", "t5"], ["y"]),
        ]
        constants = {"w": weights(6, 4, 1, 1), "a": weights(1), "b": weights(1), "v": weights(6, 6, 1, 1)}
        ops = ["Conv", "Relu", "Mul", "Add", "GlobalAveragePool", "Conv", "Mul"]
        changed = check(model_of(nodes, constants), (fold_affine_before,), ops)
        pool = next(each for each in changed.graph.node if each.op_type == "GlobalAveragePool")
        assert pool.input[0] == "t1"


class TestAffineToBatchNorm:
    def test_scale_and_shift_before_padding_become_one_operation(self) -> None:
        constants = {"w": weights(6, 4, 1, 1), "a": weights(1), "b": weights(1), "v": weights(6, 1, 3, 3)}
        nodes = [
            op("Conv", ["x", "w"], ["t0"]),
            op("HardSwish", ["t0"], ["t1"]),
            op("Mul", ["a", "t1"], ["t2"]),
            op("Add", ["b", "t2"], ["t3"]),
            op("Conv", ["t3", "v"], ["y"], pads=[1, 1, 1, 1], group=6),
        ]
        ops = ["Conv", "HardSwish", "BatchNormalization", "Conv"]
        check(model_of(nodes, constants), (affine_to_batch_norm,), ops)

    def test_nothing_happens_where_the_channels_are_unknown(self) -> None:
        nodes = [op("Relu", ["x"], ["t"]), op("Mul", ["t", "a"], ["y"])]
        check(model_of(nodes, {"a": weights(1)}), (affine_to_batch_norm,), ["Relu", "Mul"])


class TestFuseHardSwish:
    THREE, SIX = np.float32(3), np.float32(6)

    def clip(self, last: Sequence[NodeProto]) -> ModelProto:
        constants = {"3": np.array(3, np.float32), "6": np.array(6, np.float32), "0": np.array(0, np.float32)}
        nodes = [op("Add", ["x", "3"], ["t0"]), op("Clip", ["t0", "0", "6"], ["t1"]), *last]
        return model_of(nodes, constants | {"s": np.array([1 / 6], np.float32)})

    def test_multiplied_first(self) -> None:
        last = [op("Mul", ["x", "t1"], ["t2"]), op("Div", ["t2", "6"], ["y"])]
        check(self.clip(last), (fuse_hard_swish,), ["HardSwish"])

    def test_divided_first(self) -> None:
        last = [op("Mul", ["t1", "s"], ["t2"]), op("Mul", ["t2", "x"], ["y"])]
        check(self.clip(last), (fuse_hard_swish,), ["HardSwish"])

    def test_another_factor_is_no_hard_swish(self) -> None:
        last = [op("Mul", ["x", "t1"], ["t2"]), op("Div", ["t2", "3"], ["y"])]
        check(self.clip(last), (fuse_hard_swish,), ["Add", "Clip", "Mul", "Div"])

    def test_as_a_hard_sigmoid_gate(self) -> None:
        nodes = [op("HardSigmoid", ["x"], ["t"], alpha=1 / 6, beta=0.5), op("Mul", ["x", "t"], ["y"])]
        check(model_of(nodes, {}), (fuse_hard_swish,), ["HardSwish"])

    def test_the_steeper_hard_sigmoid_is_another_function(self) -> None:
        nodes = [op("HardSigmoid", ["x"], ["t"], alpha=0.2, beta=0.5), op("Mul", ["x", "t"], ["y"])]
        check(model_of(nodes, {}), (fuse_hard_swish,), ["HardSigmoid", "Mul"])


class TestFuseGate:
    def test_the_shortcut_goes_into_the_gate(self) -> None:
        nodes = [
            op("GlobalAveragePool", ["x"], ["t0"]),
            op("HardSigmoid", ["t0"], ["t1"]),
            op("Mul", ["x", "t1"], ["t2"]),
            op("Add", ["x", "t2"], ["y"]),
        ]
        check(model_of(nodes, {}), (fuse_gate,), ["GlobalAveragePool", "HardSigmoid", "Add", "Mul"])

    def test_a_shortcut_from_elsewhere_stays(self) -> None:
        nodes = [
            op("Relu", ["x"], ["r"]),
            op("HardSigmoid", ["x"], ["t1"]),
            op("Mul", ["x", "t1"], ["t2"]),
            op("Add", ["r", "t2"], ["y"]),
        ]
        check(model_of(nodes, {}), (fuse_gate,), ["Relu", "HardSigmoid", "Mul", "Add"])


class TestMergePointwise:
    def model(self, middle: int, kernel: int = 1) -> ModelProto:
        constants = {
            "w": weights(middle, 4, kernel, kernel),
            "a": weights(middle),
            "v": weights(6, middle, 1, 1),
        }
        first = op("Conv", ["x", "w", "a"], ["t"], kernel_shape=[kernel, kernel])
        return model_of([first, op("Conv", ["t", "v"], ["y"], kernel_shape=[1, 1])], constants)

    def test_a_wide_middle_is_multiplied_out(self) -> None:
        check(self.model(middle=16), (merge_pointwise,), ["Conv"])

    def test_a_narrow_middle_is_cheaper_as_it_is(self) -> None:
        check(self.model(middle=2), (merge_pointwise,), ["Conv", "Conv"])

    def test_only_pointwise_convolutions(self) -> None:
        check(self.model(middle=16, kernel=3), (merge_pointwise,), ["Conv", "Conv"])


class TestAlignChannels:
    def channels(self, model: ModelProto) -> list[tuple[int, ...]]:
        kernels = {each.input[1] for each in model.graph.node}
        return sorted(tuple(each.dims[:2]) for each in model.graph.initializer if each.name in kernels)

    def test_channels_between_two_convolutions_are_filled_up(self) -> None:
        constants = {"w": weights(12, 4, 3, 3), "a": weights(12), "v": weights(5, 12, 3, 3)}
        nodes = [op("Conv", ["x", "w", "a"], ["t"]), op("Conv", ["t", "v"], ["y"], pads=[1, 1, 1, 1])]
        changed = check(model_of(nodes, constants), (align_channels,), ["Conv", "Conv"])
        assert self.channels(changed) == [(5, 16), (16, 4)]

    def test_not_across_a_depthwise_convolution(self) -> None:
        constants = {"w": weights(12, 4, 1, 1), "v": weights(12, 1, 3, 3)}
        nodes = [op("Conv", ["x", "w"], ["t"]), op("Conv", ["t", "v"], ["y"], group=12)]
        changed = check(model_of(nodes, constants), (align_channels,), ["Conv", "Conv"])
        assert self.channels(changed) == [(12, 1), (12, 4)]


class TestUpsampleLast:
    def model(self, outputs: int = 1, stride: int = 2) -> ModelProto:
        constants = {
            "w": weights(4, 6, 2, 2),
            "a": weights(6),
            "v": weights(6, outputs, 2, 2),
            "b": weights(outputs),
        }
        nodes = [
            op("ConvTranspose", ["x", "w", "a"], ["t0"], strides=[stride, stride]),
            op("Relu", ["t0"], ["t1"]),
            op("ConvTranspose", ["t1", "v", "b"], ["t2"], strides=[2, 2]),
            op("Sigmoid", ["t2"], ["y"]),
        ]
        return model_of(nodes, constants)

    def test_pixels_move_once_at_the_end(self) -> None:
        ops = ["Conv", "Relu", "Conv", "Sigmoid", "DepthToSpace"]
        check(self.model(), (upsample_last,), ops)

    def test_several_output_channels(self) -> None:
        ops = ["Conv", "Relu", "Conv", "Sigmoid", "DepthToSpace"]
        check(self.model(outputs=3), (upsample_last,), ops)

    def test_overlapping_kernels_stay(self) -> None:
        ops = ["ConvTranspose", "Relu", "ConvTranspose", "Sigmoid"]
        check(self.model(stride=1), (upsample_last,), ops)


class TestFoldConstants:
    def test_a_reshaped_bias_becomes_a_constant(self) -> None:
        nodes = [
            op("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, -1, 1, 1]))),
            op("Reshape", ["b", "shape"], ["t"]),
            op("Add", ["x", "t"], ["y"]),
        ]
        check(model_of(nodes, {"b": weights(4)}), (fold_constants,), ["Add"])

    def test_what_would_grow_is_left_to_the_runtime(self) -> None:
        nodes = [
            op("Expand", ["b", "shape"], ["t0"]),
            op("Add", ["row", "column"], ["t1"]),
            op("Add", ["x", "t0"], ["t2"]),
            op("Add", ["t2", "t1"], ["y"]),
        ]
        constants = {"b": weights(1), "shape": np.array([1, 4, 7, 9])}
        model = model_of(nodes, constants | {"row": weights(1, 9), "column": weights(7, 1)})
        check(model, (fold_constants,), ["Expand", "Add", "Add", "Add"])


class TestRemoveDead:
    def test_identities_and_what_nobody_reads(self) -> None:
        nodes = [
            op("Identity", ["x"], ["t0"]),
            op("Dropout", ["t0"], ["t1"]),
            op("Mul", ["t1", "unused"], ["dead"]),
            op("Relu", ["t1"], ["y"]),
        ]
        changed = check(model_of(nodes, {"unused": weights(1)}), (remove_identities, remove_dead), ["Relu"])
        assert not changed.graph.initializer

    def test_an_output_keeps_its_name(self) -> None:
        nodes = [op("Relu", ["x"], ["t"]), op("Identity", ["t"], ["y"])]
        check(model_of(nodes, {}), (remove_identities,), ["Relu", "Identity"])

    def test_an_unsqueeze_that_is_undone(self) -> None:
        nodes = [
            op("Relu", ["x"], ["t0"]),
            op("Unsqueeze", ["t0", "axis"], ["t1"]),
            op("Add", ["t1", "zero"], ["t2"]),
            op("Squeeze", ["t2", "axis"], ["t3"]),
            op("Relu", ["t3"], ["y"]),
        ]
        model = model_of(nodes, {"axis": np.array([0]), "zero": np.zeros(1, np.float32)})
        check(model, (remove_round_trips, remove_dead), ["Relu", "Relu"])

    def test_an_unsqueeze_that_is_not_undone(self) -> None:
        nodes = [
            op("Relu", ["x"], ["t0"]),
            op("ReduceMax", ["t0"], ["t1"], axes=[2], keepdims=1),
            op("Unsqueeze", ["t1", "0"], ["t2"]),
            op("Squeeze", ["t2", "3"], ["t3"]),
            op("Relu", ["t3"], ["y"]),
        ]
        ops = ["Relu", "ReduceMax", "Unsqueeze", "Squeeze", "Relu"]
        model = model_of(nodes, {"0": np.array([0]), "3": np.array([3])})
        check(model, (remove_round_trips, remove_dead), ops)

    def test_what_a_loop_body_reads_stays(self) -> None:
        branch = helper.make_graph(
            [helper.make_node("Mul", ["scaled", "scaled"], ["inner"])],
            "branch",
            [],
            [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None] * 4)],
        )
        nodes = [
            op("Mul", ["x", "a"], ["scaled"]),
            op("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
        ]
        model = model_of(nodes, {"a": weights(1), "yes": np.array(True)})
        check(model, (remove_identities, fold_constants, remove_dead), ["Mul", "If"])


def test_graph_and_model_are_two_views_of_one_thing() -> None:
    nodes = [op("Relu", ["x"], ["t"], "first"), op("Mul", ["t", "a"], ["y"], "second")]
    model = model_of(nodes, {"a": weights(1)})
    assert Graph.from_model(model).to_model() == model
