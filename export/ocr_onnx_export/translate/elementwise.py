"""Operations that work element by element, and reductions."""

from collections.abc import Mapping
from math import pi, sqrt

from ocr_onnx_export.translate.graph import ELEMENT_TYPES, Call, Result, Translation

# Paddle's names of element types in attributes -> PIR's in types
DTYPE_NAMES: Mapping[str, str] = {
    "float32": "f32",
    "float16": "f16",
    "float64": "f64",
    "int32": "i32",
    "int64": "i64",
    "bool": "bool",
}


def unary(op_type: str) -> Translation:
    """Translate to one ONNX operator with one input."""
    return lambda call: call.emit(op_type, [call.name()])


def binary(op_type: str) -> Translation:
    """Translate to one ONNX operator with two inputs; both sides broadcast as numpy does."""
    return lambda call: call.emit(op_type, [call.name(0), call.name(1)])


def hardsigmoid(call: Call) -> Result:
    """Return max(0, min(1, slope * x + offset))."""
    attributes = {"alpha": call.number("slope"), "beta": call.number("offset")}
    return call.emit("HardSigmoid", [call.name()], attributes)


def swish(call: Call) -> Result:
    """Return x * sigmoid(x)."""
    x = call.name()
    return call.emit("Mul", [x, call.emit("Sigmoid", [x])])


def gelu(call: Call) -> Result:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016), spelt as ONNX Runtime expects to fuse it."""
    x, like = call.name(), call.tensor()
    half, one = call.scalar(0.5, like), call.scalar(1.0, like)
    if call.flag("approximate"):
        cube = call.emit("Mul", [x, call.emit("Mul", [x, x])])
        bent = call.emit("Add", [x, call.emit("Mul", [cube, call.scalar(0.044715, like)])])
        curve = call.emit("Tanh", [call.emit("Mul", [bent, call.scalar(sqrt(2 / pi), like)])])
    else:
        curve = call.emit("Erf", [call.emit("Div", [x, call.scalar(sqrt(2), like)])])
    return call.emit("Mul", [call.emit("Mul", [x, call.emit("Add", [curve, one])]), half])


def leaky_relu(call: Call) -> Result:
    """Return x where positive, slope * x elsewhere."""
    return call.emit("LeakyRelu", [call.name()], {"alpha": call.number("negative_slope")})


def relu6(call: Call) -> Result:
    """Cut to 0..6."""
    x = call.tensor()
    return call.emit("Clip", [call.use(x), call.scalar(0.0, x), call.scalar(6.0, x)])


def clip(call: Call) -> Result:
    """Cut to bounds that are operands."""
    x = call.tensor()
    low, high = (call.scalar(call.constant_float(index), x) for index in (1, 2))
    return call.emit("Clip", [call.use(x), low, high])


def power(call: Call) -> Result:
    """Return x to a fixed power."""
    return call.emit("Pow", [call.name(), call.scalar(call.number("y"), call.tensor())])


def scale(call: Call) -> Result:
    """Return scale * x + bias, or scale * (x + bias)."""
    x = call.tensor()
    factor, bias = call.constant_float(1), call.number("bias")
    if not call.flag("bias_after_scale"):
        bias *= factor
    y = call.emit("Mul", [call.use(x), call.scalar(factor, x)])
    return call.emit("Add", [y, call.scalar(bias, x)]) if bias else y


def dropout(call: Call) -> Result:
    """Dropout at inference: nothing, or, in the older mode, the factor that training lacked."""
    call.ignore("seed", "fix_seed")
    if not call.flag("is_test"):
        raise call.unsupported("drops values at random, as in training")
    if call.choice("mode", ("upscale_in_train", "downgrade_in_infer")) == "upscale_in_train":
        return call.name()
    return call.emit("Mul", [call.name(), call.scalar(1.0 - call.constant_float(2), call.tensor())])


def softmax(call: Call) -> Result:
    """Softmax along one axis."""
    axis = call.axis(call.integer("axis"), len(call.shape()))
    return call.emit("Softmax", [call.name()], {"axis": axis})


def cast(call: Call) -> Result:
    """Change the element type."""
    dtype = DTYPE_NAMES[call.choice("dtype", tuple(DTYPE_NAMES))]
    return call.emit("Cast", [call.name()], {"to": ELEMENT_TYPES[dtype]})


def reduction(op_type: str) -> Translation:
    """Translate a reduction; its axes are an attribute or, in newer programs, operand 1. None means all."""

    def translate(call: Call) -> Result:
        rank = len(call.shape())
        axes = call.constant_integers(1) if call.has(1) else call.integers("axis")
        axes = sorted({call.axis(axis, rank) for axis in axes}) or list(range(rank))
        keep = int(call.flag("keepdim"))
        if op_type == "ReduceSum":  # the one reduction that has its axes as an input in opset 17
            call.ignore("dtype")
            if call.result_type().dtype != call.tensor().type.dtype:
                raise call.unsupported("sums into another element type")
            return call.emit(op_type, [call.name(), call.integers_constant(axes)], {"keepdims": keep})
        return call.emit(op_type, [call.name()], {"axes": axes, "keepdims": keep})

    return translate


TABLE: Mapping[str, Translation] = {
    "pd_op.abs": unary("Abs"),
    "pd_op.add": binary("Add"),
    "pd_op.cast": cast,
    "pd_op.clip": clip,
    "pd_op.divide": binary("Div"),
    "pd_op.dropout": dropout,
    "pd_op.elementwise_pow": binary("Pow"),
    "pd_op.exp": unary("Exp"),
    "pd_op.gelu": gelu,
    "pd_op.hardsigmoid": hardsigmoid,
    "pd_op.hardswish": unary("HardSwish"),
    "pd_op.leaky_relu": leaky_relu,
    "pd_op.max": reduction("ReduceMax"),
    "pd_op.maximum": binary("Max"),
    "pd_op.mean": reduction("ReduceMean"),
    "pd_op.min": reduction("ReduceMin"),
    "pd_op.minimum": binary("Min"),
    "pd_op.multiply": binary("Mul"),
    "pd_op.pow": power,
    "pd_op.relu": unary("Relu"),
    "pd_op.relu6": relu6,
    "pd_op.scale": scale,
    "pd_op.sigmoid": unary("Sigmoid"),
    "pd_op.silu": swish,
    "pd_op.softmax": softmax,
    "pd_op.sqrt": unary("Sqrt"),
    "pd_op.subtract": binary("Sub"),
    "pd_op.sum": reduction("ReduceSum"),
    "pd_op.swish": swish,
    "pd_op.tanh": unary("Tanh"),
}
