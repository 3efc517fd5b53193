"""Operations with weights or windows: convolution, normalisation, pooling, resizing, matrix product."""

from collections.abc import Mapping

import numpy as np

from ocr_onnx_export.translate.graph import Call, OnnxAttribute, Result, Translation


def conv2d(call: Call) -> Result:
    """Two-dimensional convolution, grouped or depthwise."""
    return call.emit("Conv", [call.name(0), call.name(1)], _window(call, call.shape(1)[2:]) | _dilation(call))


def conv2d_transpose(call: Call) -> Result:
    """Transposed convolution; its size follows from the window, an explicit output size is not translated."""
    if call.has(2) and call.constant_integers(2):
        raise call.unsupported("asks for an output size")
    attributes = _window(call, call.shape(1)[2:]) | _dilation(call)
    if "auto_pad" in attributes:
        raise call.unsupported("pads by SAME with a stride")
    output_padding = call.integers("output_padding")
    if any(output_padding):
        attributes["output_padding"] = output_padding
    return call.emit("ConvTranspose", [call.name(0), call.name(1)], attributes)


def batch_norm(call: Call) -> Result:
    """Batch normalisation with the running statistics. Operands: x, mean, variance, scale, bias."""
    call.ignore("momentum", "trainable_statistics")
    call.choice("data_format", ("NCHW",))
    if not (call.flag("is_test") or call.flag("use_global_stats")):
        raise call.unsupported("normalises by the batch, as in training")
    call.ignore("use_global_stats")
    inputs = [call.name(index) for index in (0, 3, 4, 1, 2)]
    return call.emit("BatchNormalization", inputs, {"epsilon": call.number("epsilon")})


def layer_norm(call: Call) -> Result:
    """Layer normalisation over the trailing dimensions (Ba et al. 2016)."""
    shape = call.shape()
    first = call.axis(call.integer("begin_norm_axis"), len(shape))
    normalised = shape[first:]
    if min(normalised) < 1:
        raise call.unsupported(f"normalises over a dimension of unknown size, {list(normalised)}")
    # Paddle keeps scale and bias flat, whatever the number of dimensions
    scale = call.constant(1).reshape(normalised) if call.has(1) else np.ones(normalised, np.float32)
    inputs = [call.name(), call.graph.constant(scale)]
    if call.has(2):
        inputs.append(call.graph.constant(call.constant(2).reshape(normalised)))
    return call.emit("LayerNormalization", inputs, {"axis": first, "epsilon": call.number("epsilon")})


def pool2d(call: Call) -> Result:
    """Average or maximum over a window, or over everything."""
    kind = call.choice("pooling_type", ("avg", "max"))
    kernel = call.constant_integers(1)
    adaptive, everything = call.flag("adaptive"), call.flag("global_pooling")
    if everything or (adaptive and kernel == [1, 1]):
        call.ignore("strides", "paddings", "padding_algorithm", "ceil_mode", "exclusive")
        call.choice("data_format", ("NCHW",))
        return call.emit("GlobalAveragePool" if kind == "avg" else "GlobalMaxPool", [call.name()])
    if adaptive:
        raise call.unsupported(f"pools to a fixed size, {kernel}")
    attributes = _window(call, tuple(kernel))
    attributes["ceil_mode"] = int(call.flag("ceil_mode"))
    exclusive = call.flag("exclusive")
    if kind == "max":
        return call.emit("MaxPool", [call.name()], attributes)
    if attributes["ceil_mode"] and not exclusive:
        raise call.unsupported("averages over windows that reach beyond the padding")
    return call.emit("AveragePool", [call.name()], attributes | {"count_include_pad": int(not exclusive)})


def interpolate(call: Call) -> Result:
    """Resize height and width by fixed factors or to a fixed size."""
    call.ignore("out_d")
    call.choice("data_format", ("NCHW",))
    if len(call.shape()) != 4 or any(call.has(index) for index in (1, 2, 3)):
        raise call.unsupported("computes its output size")
    attributes = _resize_mode(call)
    factors, size = call.numbers("scale"), [call.integer("out_h"), call.integer("out_w")]
    if factors:
        height, width = factors if len(factors) == 2 else factors * 2
        scales = call.graph.constant(np.array([1.0, 1.0, height, width], dtype=np.float32))
        return call.emit("Resize", [call.name(), "", scales], attributes)
    if min(size) < 1:
        raise call.unsupported("has neither scale nor size")
    shape = call.emit("Shape", [call.name()])
    kept = call.emit("Slice", [shape, call.integers_constant([0]), call.integers_constant([2])])
    sizes = call.emit("Concat", [kept, call.integers_constant(size)], {"axis": 0})
    return call.emit("Resize", [call.name(), "", "", sizes], attributes)


def matmul(call: Call) -> Result:
    """Matrix product, each side transposed on demand."""
    sides = []
    for index, flag in enumerate(("transpose_x", "transpose_y")):
        name, rank = call.name(index), len(call.shape(index))
        if call.flag(flag) and rank > 1:
            order = [*range(rank - 2), rank - 1, rank - 2]
            name = call.emit("Transpose", [name], {"perm": order})
        sides.append(name)
    return call.emit("MatMul", sides)


def bmm(call: Call) -> Result:
    """Matrix product of two stacks of matrices."""
    return call.emit("MatMul", [call.name(0), call.name(1)])


def _window(call: Call, kernel: tuple[int, ...]) -> dict[str, OnnxAttribute]:
    """Return kernel, strides and padding of a convolution or pooling."""
    call.choice("data_format", ("NCHW",))
    strides, paddings = call.integers("strides"), call.integers("paddings")
    algorithm = call.choice("padding_algorithm", ("EXPLICIT", "SAME", "VALID"))
    if len(kernel) != 2 or len(strides) != 2 or min(*kernel, *strides) < 1:
        raise call.unsupported(f"has kernel {list(kernel)} and strides {strides}, not two sizes each")
    attributes: dict[str, OnnxAttribute] = {"kernel_shape": kernel, "strides": strides}
    if algorithm == "SAME" and strides != [1, 1]:
        return attributes | {"auto_pad": "SAME_UPPER"}
    if algorithm == "SAME":
        paddings = [pad for size in kernel for pad in ((size - 1) // 2, size // 2)]
    elif algorithm == "VALID":
        paddings = [0, 0]
    if len(paddings) == 2:
        top, left = bottom, right = paddings
    elif len(paddings) == 4:
        top, bottom, left, right = paddings
    else:
        raise call.unsupported(f"has {len(paddings)} paddings where 2 or 4 belong")
    return attributes | {"pads": [top, left, bottom, right]}


def _dilation(call: Call) -> dict[str, OnnxAttribute]:
    dilations, groups = call.integers("dilations"), call.integer("groups")
    if len(dilations) != 2 or min(*dilations, groups) < 1:
        raise call.unsupported(f"has dilations {dilations} and {groups} groups")
    if call.choice("padding_algorithm", ("EXPLICIT", "SAME", "VALID")) == "SAME" and dilations != [1, 1]:
        raise call.unsupported("pads a dilated window by SAME")
    return {"dilations": dilations, "group": groups}


def _resize_mode(call: Call) -> dict[str, OnnxAttribute]:
    """Return how Paddle's sampling positions are called in ONNX."""
    method = call.choice("interp_method", ("nearest", "bilinear"))
    aligned, from_centre = call.flag("align_corners"), call.integer("align_mode") == 0
    if method == "nearest":
        if aligned:
            raise call.unsupported("aligns corners of nearest neighbours, which Paddle itself refuses")
        return {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    positions = "align_corners" if aligned else "half_pixel" if from_centre else "asymmetric"
    return {"mode": "linear", "coordinate_transformation_mode": positions}


TABLE: Mapping[str, Translation] = {
    "pd_op.batch_norm": batch_norm,
    "pd_op.batch_norm_": batch_norm,
    "pd_op.bilinear_interp": interpolate,
    "pd_op.bmm": bmm,
    "pd_op.conv2d": conv2d,
    "pd_op.conv2d_transpose": conv2d_transpose,
    "pd_op.depthwise_conv2d": conv2d,
    "pd_op.layer_norm": layer_norm,
    "pd_op.matmul": matmul,
    "pd_op.nearest_interp": interpolate,
    "pd_op.pool2d": pool2d,
}
