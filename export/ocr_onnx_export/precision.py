"""A float32 model in, a smaller one out (float16 or int8), and the gates that decide if it may be shipped."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper, shape_inference

from ocr_onnx_export.rewrite import FOLDING, TIDY
from ocr_onnx_export.rewrite.graph import Graph, Node, node

LARGEST_HALF = 65504.0
PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
POOLS = frozenset(("AveragePool", "GlobalAveragePool", "MaxPool"))
ELEMENTWISE = frozenset(
    ("Add", "Clip", "Div", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Mul", "Relu", "Sigmoid", "Sub")
)
RESHAPING = frozenset(("DepthToSpace", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
PICKING = frozenset(("Concat", "Gather", "Resize", "Slice", "Split"))
# What half precision is safe and quick for. Softmax, normalisation and whatever is not listed
# computes in float32: sums of squares overflow early, and probabilities near 1 lose their order.
HALF_OPS = PRODUCTS | POOLS | ELEMENTWISE | RESHAPING | PICKING
# Inputs that are float32 by definition, whatever the data is.
ALWAYS_FULL = {"Resize": (1, 2)}
# Processors without VNNI add products of bytes in pairs, in 16 bits that saturate: 2 * 255 * 64 still fits,
# so a file answers the same on every one.
LARGEST_WEIGHT = 64
SMALLEST_STORED = 64  # elements; a shorter constant is not worth its Cast

MIN_MASK_IOU = 0.99
MIN_EQUAL_LINES = 0.995
MASK_THRESHOLD = 0.3


def to_half(model: ModelProto) -> ModelProto:
    """Compute in float16, for GPUs. Inputs and outputs keep their types.

    Batch norms are folded first: the detector has variances of 1e8, which float16 cannot hold.
    Softmax, normalisation, a sigmoid that makes an output, and normalising a byte picture stay in
    float32, and so does an operation with a constant beyond 65504. Needs opset 14 or newer, which
    `rewrite.upgrade_opset` brings about.
    """
    graph = Graph.from_model(model)
    for apply in FOLDING:
        graph = apply(graph)
    floats = _float_tensors(graph)
    full = _first_steps(graph) | _last_steps(graph)
    half = frozenset(each for each in graph.nodes if each not in full and _may_be_half(graph, each, floats))
    graph = _with_halves(graph, floats, half)
    for apply in TIDY:
        graph = apply(graph)
    return graph.to_model()


def store_half(model: ModelProto) -> ModelProto:
    """Store float32 weights as float16 and compute in float32: half the download, the same speed.

    ONNX Runtime turns the weights back once, when it loads the file. A tensor beyond float16's
    range is stored as it was, and so are the weights that normalise a byte picture.
    """
    graph = Graph.from_model(model)
    full = {name for each in _first_steps(graph) for name in each.inputs}
    casts = []
    for name in sorted(graph.constants):
        value = graph.float32(name)
        if name in full or value is None or value.size < SMALLEST_STORED or not _fits_half(value):
            continue
        graph, stored = graph.with_constant(f"{name}.half", value.astype(np.float16))
        casts.append(node("Cast", (stored,), name, {"to": TensorProto.FLOAT}))
    replaced = {cast.output for cast in casts}
    kept = {name: tensor for name, tensor in graph.constants.items() if name not in replaced}
    graph = replace(graph, nodes=(*casts, *graph.nodes), constants=kept)
    for apply in TIDY:
        graph = apply(graph)
    return graph.to_model()


def matmul_to_int8(model: ModelProto) -> ModelProto:
    """Multiply by constant matrices in int8: weights per column, -64 to 64, data as it comes.

    Only MatMul with a 2-D float32 constant on the right. The data's range is taken at run time
    (DynamicQuantizeLinear), so no calibration set is needed.
    """
    graph = Graph.from_model(model)
    for each in graph.nodes:
        weight = graph.float32(each.inputs[1]) if each.op == "MatMul" and not each.domain else None
        if weight is not None and weight.ndim == 2:
            graph = _quantised(graph, each, weight)
    for apply in TIDY:
        graph = apply(graph)
    return graph.to_model()


@dataclass(frozen=True, slots=True)
class Gate:
    """What a changed model was measured at: `worst` and `mean` agreement over `samples`, and the bar."""

    measure: str
    samples: int
    mean: float
    worst: float
    passed: bool


def gate_masks(pairs: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Gate:
    """Compare probability maps of the detector, (reference, changed): every mask's IoU must be 0.99."""
    overlaps = [mask_iou(reference, changed) for reference, changed in pairs]
    mean, worst = _mean_and_worst(overlaps)
    return Gate("mask IoU", len(overlaps), mean, worst, worst >= MIN_MASK_IOU)


def gate_lines(pairs: Iterable[tuple[str, str]]) -> Gate:
    """Compare recognised texts, (reference, changed): 99.5 % of the lines must be equal."""
    equal = [float(reference == changed) for reference, changed in pairs]
    mean, worst = _mean_and_worst(equal)
    return Gate("equal lines", len(equal), mean, worst, mean >= MIN_EQUAL_LINES)


def mask_iou(reference: NDArray[np.float32], changed: NDArray[np.float32]) -> float:
    """Return intersection over union of two probability maps cut at 0.3; 1 if both are empty."""
    ours, theirs = changed > MASK_THRESHOLD, reference > MASK_THRESHOLD
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def _with_halves(graph: Graph, floats: frozenset[str], half: frozenset[Node]) -> Graph:
    """Give every float tensor a float16 twin; let the nodes in `half` read and write the twins.

    One of the two is computed by the tensor's own node, the other is cast from it; casts nobody
    reads are dead code.
    """
    made_half = {name for each in half for name in each.outputs}
    constants = dict(graph.constants)
    casts = []
    for name in sorted(floats):
        value = graph.float32(name)
        if value is not None:
            if _fits_half(value):
                constants[_twin(name)] = numpy_helper.from_array(value.astype(np.float16), _twin(name))
        elif name in made_half:
            casts.append(node("Cast", (_twin(name),), name, {"to": TensorProto.FLOAT}))
        else:
            casts.append(node("Cast", (name,), _twin(name), {"to": TensorProto.FLOAT16}))
    nodes = tuple(_on_twins(each, floats) if each in half else each for each in graph.nodes)
    return replace(graph, nodes=(*casts, *nodes), constants=constants)


def _on_twins(each: Node, floats: frozenset[str]) -> Node:
    full = ALWAYS_FULL.get(each.op, ())
    inputs = tuple(
        _twin(name) if name in floats and place not in full else name
        for place, name in enumerate(each.inputs)
    )
    return replace(each, inputs=inputs, outputs=tuple(_twin(name) for name in each.outputs))


def _twin(tensor: str) -> str:
    return f"{tensor}.half"


def _float_tensors(graph: Graph) -> frozenset[str]:
    """Return the names of all tensors known to be float32."""
    inferred = shape_inference.infer_shapes(graph.to_model()).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    computed = {each.name for each in values if each.type.tensor_type.elem_type == TensorProto.FLOAT}
    return frozenset(computed).union(
        name for name, tensor in graph.constants.items() if tensor.data_type == TensorProto.FLOAT
    )


def _may_be_half(graph: Graph, each: Node, floats: frozenset[str]) -> bool:
    if each.op not in HALF_OPS or each.domain or not floats.issuperset(each.outputs):
        return False
    values = (graph.float32(name) for name in each.inputs)
    return all(value is None or _fits_half(value) for value in values)


def _first_steps(graph: Graph) -> frozenset[Node]:
    """Return the nodes from byte inputs to the first convolution: its weights are too small for float16."""
    found: set[Node] = set()
    pending = [each.name for each in graph.inputs if each.type.tensor_type.elem_type != TensorProto.FLOAT]
    while pending:
        for user in graph.users(pending.pop()):
            if user not in found:
                found.add(user)
                pending.extend(user.outputs if user.op != "Conv" else ())
    return frozenset(found)


def _last_steps(graph: Graph) -> frozenset[Node]:
    """Return the sigmoids that make outputs, what only moves their results about, and what reads outputs.

    The best class is sought among probabilities that are an output: halves would make many equal.
    """
    found = {user for output in graph.outputs for user in graph.users(output.name)}
    pending = [each.name for each in graph.outputs]
    while pending:
        producer = graph.producer(pending.pop())
        if producer is not None and producer.op in RESHAPING | {"Sigmoid"}:
            found.add(producer)
            pending.extend(producer.inputs[:1] if producer.op in RESHAPING else ())
    return frozenset(found)


def _fits_half(value: NDArray[np.float32]) -> bool:
    return bool(np.all(np.abs(value) <= LARGEST_HALF))


def _quantised(graph: Graph, product: Node, weight: NDArray[np.float32]) -> Graph:
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / LARGEST_WEIGHT
    whole = np.rint(weight / scale).astype(np.int8)
    name = product.output
    graph, weight_name = graph.with_constant(f"{name}.weight", whole)
    graph, scale_name = graph.with_constant(f"{name}.scale", scale.astype(np.float32))
    bytes_, step, zero, summed, sums, steps = (
        graph.unused_name(f"{name}.{part}") for part in ("bytes", "step", "zero", "summed", "sums", "steps")
    )
    data = Node("DynamicQuantizeLinear", product.inputs[:1], (bytes_, step, zero), {})
    return graph.swap(
        (product,),
        (
            data,
            node("MatMulInteger", (bytes_, weight_name, zero), summed),
            node("Cast", (summed,), sums, {"to": TensorProto.FLOAT}),
            node("Mul", (step, scale_name), steps),
            node("Mul", (sums, steps), name),
        ),
    )


def _mean_and_worst(values: Sequence[float]) -> tuple[float, float]:
    """Nothing measured is nothing passed."""
    return (sum(values) / len(values), min(values)) if values else (0.0, 0.0)
