"""The network of ch_RepSVTR_rec with random weights, for timing: its official graph can't always be had.

Built from its publication in PaddleOCR (`rec_repvit.py`, the SVTR neck of `rnn.py`, `rec_repsvtr_ch.yml`),
as deployed: parallel branches merged into one convolution, batch norms folded. Its 6.26 million
parameters are 25.1 MB; the publisher states 22.1 M, as it states 73.9 M for ch_SVTRv2_rec, whose file
has 83.9 MB.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CLASSES = 6625
# Channels, squeeze-excite and stride over the height of every block of the backbone.
BLOCKS = (
    *((96, excite, 1) for excite in (True, False, False)),
    (192, False, 2),
    *((192, excite, 1) for excite in (True, False, True, False, True, False)),
    (384, False, 2),
    *((384, excite, 1) for excite in (True, False)),
)
HEIGHT_AFTER = 3  # rows that the backbone leaves of 48
NECK, HIDDEN, HEADS, DEPTH = 48, 256, 8, 2


@dataclass(frozen=True, slots=True)
class _Net:
    """A graph in the making; every method adds an operation and returns the name of its output."""

    generator: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape: int) -> str:
        inputs = math.prod(shape[1:]) if len(shape) == 4 else shape[0]
        values = self.generator.normal(0, 1 / math.sqrt(inputs), shape)
        return self.constant(values.astype(np.float32))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
    ) -> str:
        pads = [kernel[0] // 2, kernel[1] // 2] * 2
        weight, bias = self.weight(outputs, inputs, *kernel), self.weight(outputs)
        return self.op("Conv", x, weight, bias, kernel_shape=kernel, strides=stride, pads=pads)

    def depthwise(self, x: str, channels: int, stride: tuple[int, int]) -> str:
        weight, bias = self.weight(channels, 1, 3, 3), self.weight(channels)
        return self.op(
            "Conv", x, weight, bias, kernel_shape=[3, 3], strides=stride, pads=[1] * 4, group=channels
        )

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def norm(self, x: str) -> str:
        scale = self.constant(np.ones(HIDDEN, np.float32))
        return self.op("LayerNormalization", x, scale, self.weight(HIDDEN), axis=-1, epsilon=1e-6)

    def gelu(self, x: str) -> str:
        half, one, root = (self.constant(np.array(value, np.float32)) for value in (0.5, 1.0, math.sqrt(2)))
        halved = self.op("Mul", x, half)
        return self.op("Mul", halved, self.op("Add", self.op("Erf", self.op("Div", x, root)), one))

    def swish(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))


def rep_svtr(seed: int = 0) -> ModelProto:
    """Return the network as a stock PP-OCR rec model: `x` (N, 3, 48, W) float32 in, (N, T, 6625) out."""
    net = _Net(np.random.default_rng(seed))
    x = net.gelu(net.conv("x", 3, 48, (3, 3), (2, 2)))
    x = net.conv(x, 48, 96, (3, 3), (2, 2))
    channels = 96
    for outputs, excite, stride in BLOCKS:
        x = _block(net, x, channels, outputs, excite=excite, stride=stride)
        channels = outputs
    x = net.op("AveragePool", x, kernel_shape=[HEIGHT_AFTER, 2], strides=[HEIGHT_AFTER, 2])
    steps = _neck(net, x, channels)
    probs = net.op("Softmax", net.linear(steps, HIDDEN, CLASSES), axis=2)
    graph = helper.make_graph(
        net.nodes,
        "RepSVTR",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 48, "W"])],
        [helper.make_tensor_value_info(probs, TensorProto.FLOAT, ["N", "T", CLASSES])],
        net.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"stage": "rec"})
    return model


def _block(net: _Net, x: str, inputs: int, outputs: int, *, excite: bool, stride: int) -> str:
    """Add a RepViT block: token mixer (depthwise, squeeze-excite), channel mixer (two 1x1 and a GELU)."""
    x = net.depthwise(x, inputs, (stride, 1))
    if excite:
        squeezed = net.op("Relu", net.conv(net.op("GlobalAveragePool", x), inputs, inputs // 4))
        x = net.op("Mul", x, net.op("Sigmoid", net.conv(squeezed, inputs // 4, inputs)))
    if inputs != outputs:
        x = net.conv(x, inputs, outputs)
    wide = net.gelu(net.conv(x, outputs, 2 * outputs))
    return net.op("Add", x, net.conv(wide, 2 * outputs, outputs))


def _neck(net: _Net, x: str, channels: int) -> str:
    """Add the SVTR neck: (N, C, 1, T) -> (N, T, HIDDEN)."""
    narrow = net.swish(net.conv(x, channels, NECK, (1, 3)))
    narrow = net.swish(net.conv(narrow, NECK, HIDDEN))
    rows = net.constant(np.array([2], np.int64))
    steps = net.op("Transpose", net.op("Squeeze", narrow, rows), perm=[0, 2, 1])
    for _ in range(DEPTH):
        steps = _attention(net, steps)
    back = net.op("Unsqueeze", net.op("Transpose", net.norm(steps), perm=[0, 2, 1]), rows)
    wide = net.swish(net.conv(back, HIDDEN, channels))
    joined = net.op("Concat", x, wide, axis=1)
    joined = net.swish(net.conv(joined, 2 * channels, NECK, (1, 3)))
    joined = net.swish(net.conv(joined, NECK, HIDDEN))
    return net.op("Transpose", net.op("Squeeze", joined, rows), perm=[0, 2, 1])


def _attention(net: _Net, steps: str) -> str:
    """Add a transformer block with global attention: (N, T, HIDDEN) -> the same."""
    size = HIDDEN // HEADS
    qkv = net.linear(net.norm(steps), HIDDEN, 3 * HIDDEN)
    qkv = net.op("Reshape", qkv, net.constant(np.array([0, -1, 3, HEADS, size], np.int64)))
    qkv = net.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    query, key, value = (
        net.op("Gather", qkv, net.constant(np.array(part, np.int64)), axis=0) for part in range(3)
    )
    query = net.op("Mul", query, net.constant(np.array(size**-0.5, np.float32)))
    weights = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2])), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    mixed = net.op("Reshape", mixed, net.constant(np.array([0, -1, HIDDEN], np.int64)))
    steps = net.op("Add", steps, net.linear(mixed, HIDDEN, HIDDEN))
    wide = net.swish(net.linear(net.norm(steps), HIDDEN, 2 * HIDDEN))
    return net.op("Add", steps, net.linear(wide, 2 * HIDDEN, HIDDEN))
