"""Operations that make, move and cut tensors, and the shape arithmetic between them."""

from collections.abc import Mapping
from math import prod

import numpy as np

from ocr_onnx_export.translate.elementwise import DTYPE_NAMES
from ocr_onnx_export.translate.graph import MAX_CONSTANT_ELEMENTS, Call, Result, Tensor, Translation


def full_int_array(call: Call) -> Result:
    """Make a list of integers, always a constant."""
    call.choice("dtype", ("int32", "int64"))
    return np.array(call.integers("value"), dtype=np.int64)


def full(call: Call) -> Result:
    """Make a tensor with one value everywhere, always a constant."""
    shape = call.integers("shape")
    dtype = DTYPE_NAMES[call.choice("dtype", tuple(DTYPE_NAMES))]
    if min(shape, default=0) < 0 or prod(shape) > MAX_CONSTANT_ELEMENTS:
        raise call.unsupported(f"fills a tensor of shape {shape}")
    return call.checked_array(call.number("value"), tuple(shape), call.numpy_type(dtype))


def assign(call: Call) -> Result:
    """Pass its operand on."""
    tensor = call.tensor()
    return call.use(tensor) if tensor.constant is None else tensor.constant


def shape_of(call: Call) -> Result:
    """Return the shape as integers."""
    return call.emit("Shape", [call.name()])


def reshape(call: Call) -> Result:
    """Give another shape; 0 keeps a dimension, -1 is what is left. A parameter is reshaped here and now."""
    content = call.tensor().constant
    target = call.operands[1] if call.has(1) else None
    if content is None or not isinstance(target, Tensor) or target.constant is None:
        return call.emit("Reshape", [call.name(), _integer_list(call, 1)])
    sizes = call.constant_integers(1)
    try:
        return content.reshape([content.shape[at] if size == 0 else size for at, size in enumerate(sizes)])
    except (ValueError, IndexError) as error:
        raise call.unsupported(f"gives shape {sizes} to a constant of shape {list(content.shape)}") from error


def flatten(call: Call) -> Result:
    """Make one dimension of those from `start_axis` to `stop_axis`."""
    shape = call.shape()
    start, stop = (call.axis(call.integer(name), len(shape)) for name in ("start_axis", "stop_axis"))
    after = shape[stop + 1 :]
    if start > stop or min(after, default=1) < 1:
        raise call.unsupported(f"flattens dimensions {start} to {stop} of shape {list(shape)}")
    return call.emit("Reshape", [call.name(), call.integers_constant([0] * start + [-1, *after])])


def transpose(call: Call) -> Result:
    """Reorder the dimensions."""
    rank = len(call.shape())
    order = [call.axis(axis, rank) for axis in call.integers("perm")]
    if sorted(order) != list(range(rank)):
        raise call.unsupported(f"reorders {rank} dimensions by {order}")
    return call.emit("Transpose", [call.name()], {"perm": order})


def slice_(call: Call) -> Result:
    """Cut ranges out along some axes, then drop those in `decrease_axis`."""
    call.ignore("infer_flags")  # helps Paddle's shape inference only
    rank = len(call.shape())
    axes = [call.axis(axis, rank) for axis in call.integers("axes")]
    dropped = [call.axis(axis, rank) for axis in call.integers("decrease_axis")]
    inputs = [call.name(), _integer_list(call, 1), _integer_list(call, 2), call.integers_constant(axes)]
    cut = call.emit("Slice", inputs)
    # a program from before Paddle had 0-D tensors says rank 1 where all dimensions are dropped: believe it
    if dropped and len(call.result_type().shape) == rank - len(dropped):
        return call.emit("Squeeze", [cut, call.integers_constant(dropped)])
    return cut


def concat(call: Call) -> Result:
    """Join tensors along an axis that is there already."""
    parts = call.tensors()
    axis = call.axis(call.constant_integer(1), len(parts[0].type.shape))
    return call.emit("Concat", [call.use(part) for part in parts], {"axis": axis})


def stack(call: Call) -> Result:
    """Join tensors along a new axis."""
    parts = call.tensors()
    axis = call.axis(call.integer("axis"), len(parts[0].type.shape) + 1)
    rows = [call.emit("Unsqueeze", [call.use(part), call.integers_constant([axis])]) for part in parts]
    return call.emit("Concat", rows, {"axis": axis})


def split(call: Call) -> Result:
    """Cut a tensor into parts of given sizes. Operands: x, sizes, axis."""
    sizes = call.constant_integers(1)
    axis = call.axis(call.constant_integer(2), len(call.shape()))
    if not sizes or min(sizes) < 0:
        raise call.unsupported(f"cuts into parts of {sizes}")
    inputs = [call.name(), call.integers_constant(sizes)]
    return call.graph.emit("Split", inputs, {"axis": axis}, outputs=len(sizes))


def split_with_num(call: Call) -> Result:
    """Cut a tensor into equal parts. Operands: x, axis."""
    count, axis = call.integer("num"), call.axis(call.constant_integer(1), len(call.shape()))
    size = call.shape()[axis]
    if not 1 <= count <= size or size % count:
        raise call.unsupported(f"cuts {size} into {count} equal parts")
    inputs = [call.name(), call.integers_constant([size // count] * count)]
    return call.graph.emit("Split", inputs, {"axis": axis}, outputs=count)


def squeeze(call: Call) -> Result:
    """Drop dimensions of size 1; Paddle leaves those of another size alone."""
    shape = call.shape()
    axes = sorted({call.axis(axis, len(shape)) for axis in call.constant_integers(1)} or range(len(shape)))
    axes = [axis for axis in axes if shape[axis] in (1, -1)]
    if len(shape) - len(axes) != len(call.result_type().shape):
        raise call.unsupported(f"drops dimensions {axes} of shape {list(shape)}, which may not have size 1")
    return call.emit("Squeeze", [call.name(), call.integers_constant(axes)]) if axes else call.name()


def unsqueeze(call: Call) -> Result:
    """Insert dimensions of size 1, in Paddle one after the other."""
    axes = call.constant_integers(1)
    rank = len(call.shape()) + len(axes)
    if len(axes) > 1 and (min(axes) < 0 or axes != sorted(set(axes))):
        raise call.unsupported(f"inserts dimensions in the order {axes}")
    axes = [call.axis(axis, rank) for axis in axes]
    return call.emit("Unsqueeze", [call.name(), call.integers_constant(axes)])


def expand(call: Call) -> Result:
    """Repeat dimensions of size 1; -1 keeps a dimension."""
    sizes = [1 if size == -1 else size for size in call.constant_integers(1)]
    if min(sizes, default=1) < 1:
        raise call.unsupported(f"expands to {sizes}")
    return call.emit("Expand", [call.name(), call.integers_constant(sizes)])


def _integer_list(call: Call, index: int) -> str:
    """Return the ONNX name of operand `index` as a 1-D tensor: it is one, or a list of single numbers."""
    operand = call.operands[index] if call.has(index) else None
    if isinstance(operand, Tensor):
        return call.use(operand)
    parts = []
    for part in call.tensors(index):
        if part.constant is not None:
            parts.append(call.graph.constant(np.ravel(part.constant).astype(np.int64)))
        elif part.type.shape:
            parts.append(call.use(part))
        else:
            parts.append(call.emit("Unsqueeze", [call.use(part), call.integers_constant([0])]))
    return call.emit("Concat", parts, {"axis": 0})


TABLE: Mapping[str, Translation] = {
    "pd_op.assign": assign,
    "pd_op.concat": concat,
    "pd_op.expand": expand,
    "pd_op.flatten": flatten,
    "pd_op.full": full,
    "pd_op.full_int_array": full_int_array,
    "pd_op.reshape": reshape,
    "pd_op.shape": shape_of,
    "pd_op.shape64": shape_of,
    "pd_op.slice": slice_,
    "pd_op.split": split,
    "pd_op.split_with_num": split_with_num,
    "pd_op.squeeze": squeeze,
    "pd_op.stack": stack,
    "pd_op.transpose": transpose,
    "pd_op.unsqueeze": unsqueeze,
}
