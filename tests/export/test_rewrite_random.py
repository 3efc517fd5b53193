"""All passes together on random stacks of the blocks PP-OCR is made of: the results never change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ocr_onnx_export.rewrite import rewrite


@dataclass
class Stack:
    """A graph under construction: `top` is the tensor the next block reads."""

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    top: str = "x"
    channels: int = 3

    def add(self, op: str, *inputs: str, **attributes: Any) -> None:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        self.top = output

    def constant(self, *shape: int, low: float = -1, high: float = 1) -> str:
        value = self.rng.uniform(low, high, shape).astype(np.float32)
        self.constants.append(numpy_helper.from_array(value, f"k{len(self.constants)}"))
        return self.constants[-1].name


Block = Callable[[Stack], None]


def pointwise(stack: Stack) -> None:
    channels = int(stack.rng.integers(1, 20))
    stack.add("Conv", stack.top, stack.constant(channels, stack.channels, 1, 1), kernel_shape=[1, 1])
    stack.channels = channels


def padded(stack: Stack) -> None:
    weight = stack.constant(stack.channels, stack.channels, 3, 3)
    stack.add("Conv", stack.top, weight, stack.constant(stack.channels), pads=[1, 1, 1, 1])


def depthwise(stack: Stack) -> None:
    weight = stack.constant(stack.channels, 1, 3, 3)
    stack.add("Conv", stack.top, weight, pads=[1, 1, 1, 1], group=stack.channels)


def doubling(stack: Stack) -> None:
    weight = stack.constant(stack.channels, 4, 2, 2)
    stack.add("ConvTranspose", stack.top, weight, strides=[2, 2], kernel_shape=[2, 2])
    stack.channels = 4


def scalar(stack: Stack) -> None:
    stack.add("Mul", stack.constant(1), stack.top)
    stack.add("Add", stack.top, stack.constant(1))


def per_channel(stack: Stack) -> None:
    stack.add("Div", stack.top, stack.constant(stack.channels, 1, 1, low=1, high=2))
    stack.add("Sub", stack.constant(1, stack.channels, 1, 1), stack.top)


def batch_norm(stack: Stack) -> None:
    values = [stack.constant(stack.channels) for _ in range(3)]
    stack.add("BatchNormalization", stack.top, *values, stack.constant(stack.channels, low=0.5, high=2))


def relu(stack: Stack) -> None:
    stack.add("Relu", stack.top)


def hard_swish(stack: Stack) -> None:
    before = stack.top
    stack.add("HardSigmoid", before, alpha=1 / 6)
    stack.add("Mul", before, stack.top)


def gate(stack: Stack) -> None:
    before = stack.top
    stack.add("GlobalAveragePool", before)
    stack.add("Conv", stack.top, stack.constant(stack.channels, stack.channels, 1, 1), kernel_shape=[1, 1])
    stack.add("HardSigmoid", stack.top)
    stack.add("Mul", before, stack.top)
    stack.add("Add", before, stack.top)


def shortcut(stack: Stack) -> None:
    before = stack.top
    scalar(stack)
    stack.add("Add", stack.top, before)


BLOCKS: Sequence[Block] = (
    pointwise,
    padded,
    depthwise,
    doubling,
    scalar,
    per_channel,
    batch_norm,
    relu,
    hard_swish,
    gate,
    shortcut,
)


def model_of(blocks: Sequence[Block], seed: int) -> ModelProto:
    stack = Stack(np.random.default_rng(seed))
    for block in blocks:
        block(stack)
    graph = helper.make_graph(
        stack.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(stack.top, TensorProto.FLOAT, [None] * 4)],
        stack.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float64]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0], dtype=np.float64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=9), st.integers(0, 2**16))
def test_results_stay_the_same(blocks: list[Block], seed: int) -> None:
    model = model_of(blocks, seed)
    changed = rewrite(model)
    onnx.checker.check_model(changed, full_check=True)
    x = np.random.default_rng(seed).normal(size=(2, 3, 4, 5)).astype(np.float32)
    expected = run(model, x)
    np.testing.assert_allclose(run(changed, x), expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))
    # a gate's sum and an enlargement's way back to planes are the only nodes a rewrite may add
    added = sum(block is gate for block in blocks)
    added += sum(node.op_type == "DepthToSpace" for node in changed.graph.node)
    assert len(changed.graph.node) <= len(model.graph.node) + added
