"""A rewritten model's bytes -> the same model with its picture made floats before it is transposed. Pure.

TensorRT takes uint8 at the inputs of a network only if a cast follows at once. Rewritten files
transpose the bytes first, which is faster on a processor; TensorRT would refuse them. Casting and
transposing commute, so answers are the same to the bit.

A file is edited as what it is, fields of protocol buffers (numbers from onnx.proto), since the package
`onnx` belongs to the export and not to the runtime.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ocr_onnx.errors import ModelContractError

IMAGE = b"image"
# Fields: of ModelProto; of GraphProto; of NodeProto; of ValueInfoProto.
GRAPH = 7
NODE, VALUE_INFO = 1, 13
INPUT, OUTPUT, OP_TYPE, ATTRIBUTE = 1, 2, 4, 5
VALUE_NAME = 1

BYTES = 2  # the wire type of texts, bytes and messages


class _Field(NamedTuple):
    number: int
    content: memoryview  # of a field that holds bytes, a text or a message; else empty
    raw: memoryview  # with the tag


class _Node(NamedTuple):
    op: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    fields: tuple[_Field, ...]


def cast_first(model: bytes, subject: str) -> bytes:
    """Return `model` with the cast of the input `image` before its transposition.

    What has no such beginning comes back as it is. ModelContractError, about `subject`, for what is
    no ONNX file.
    """
    try:
        fields = tuple(_fields(memoryview(model)))
        changed = [_message(GRAPH, _graph(one.content)) if one.number == GRAPH else one.raw for one in fields]
    except (IndexError, ValueError) as error:
        problem, remedy = (
            "can't be read as an ONNX model",
            "give an ONNX file, complete and not of another format",
        )
        raise ModelContractError(subject, problem, remedy) from error
    return b"".join(changed)


def _graph(graph: memoryview) -> bytes:
    fields = tuple(_fields(graph))
    nodes = [_node(one.content) for one in fields if one.number == NODE]
    pair = _pair(nodes)
    if pair is None:
        return bytes(graph)
    transpose, cast = pair
    between = transpose.outputs[0]
    head = [
        _swapped(transpose, cast),
        _swapped(cast, transpose),
    ]
    rest = [_renamed(node, between) for node in nodes if node is not transpose and node is not cast]
    others = [one.raw for one in fields if one.number != NODE and not _is_value(one, between)]
    return b"".join([*(_message(NODE, node) for node in (*head, *rest)), *others])


def _pair(nodes: list[_Node]) -> tuple[_Node, _Node] | None:
    """Return the transposition of the picture and the cast after it; None where that is not all it is for."""
    users = [node for node in nodes if IMAGE in node.inputs]
    transposes = [node for node in users if node.op == b"Transpose"]
    if len(transposes) != 1 or any(node.op not in (b"Transpose", b"Shape") for node in users):
        return None
    after = [node for node in nodes if transposes[0].outputs[0] in node.inputs]
    return (transposes[0], after[0]) if len(after) == 1 and after[0].op == b"Cast" else None


def _swapped(place: _Node, work: _Node) -> bytes:
    """Return the node that does the work of one in the place (inputs, outputs, name) of another."""
    kept = [one.raw for one in place.fields if one.number not in (OP_TYPE, ATTRIBUTE)]
    taken = [one.raw for one in work.fields if one.number in (OP_TYPE, ATTRIBUTE)]
    return b"".join([*kept, *taken])


def _renamed(node: _Node, name: bytes) -> bytes:
    """Return the node with `name`, which is of the same shape, for the picture."""
    return b"".join(
        _message(INPUT, name) if one.number == INPUT and one.content == IMAGE else one.raw
        for one in node.fields
    )


def _is_value(field: _Field, name: bytes) -> bool:
    """Tell whether a field of the graph is the note of a value's type and shape, which no longer hold."""
    return field.number == VALUE_INFO and any(
        one.number == VALUE_NAME and one.content == name for one in _fields(field.content)
    )


def _node(node: memoryview) -> _Node:
    fields = tuple(_fields(node))

    def all_of(number: int) -> tuple[bytes, ...]:
        return tuple(bytes(one.content) for one in fields if one.number == number)

    return _Node(b"".join(all_of(OP_TYPE)), all_of(INPUT), all_of(OUTPUT), fields)


def _fields(message: memoryview) -> Iterator[_Field]:
    """Yield the fields of a message in their order; IndexError or ValueError where it is none."""
    start = 0
    while start < len(message):
        tag, at = _varint(message, start)
        content = message[:0]
        match tag & 7:
            case 0:  # a number
                _, end = _varint(message, at)
            case 1:  # eight bytes
                end = at + 8
            case 2:
                size, at = _varint(message, at)
                end = at + size
                content = message[at:end]
            case 5:  # four bytes
                end = at + 4
            case wire:
                raise ValueError(f"wire type {wire}")
        if end > len(message):
            raise IndexError(end)
        yield _Field(tag >> 3, content, message[start:end])
        start = end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1


def _message(number: int, content: bytes) -> bytes:
    return _number(number << 3 | BYTES) + _number(len(content)) + content


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
