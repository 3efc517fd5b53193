"""An untrusted `inference.json` in, a typed `Program` out: Paddle's PIR as written by Paddle 3.

The file is JSON with one-letter keys. A program has one region with one block, a list of operations::

    {"#": "p", "A": [flags.., "conv2d_0.w_0"], "O": {"%": 1, "TT": TYPE}}           a parameter
    {"#": "1.relu", "A": [{"N": "name", "AT": ATTR}], "I": [{"%": 7}], "O": [{"%": 8, "TT": TYPE}]}

"1." is the dialect `pd_op`, "0." is `builtin`; "%" numbers the values, 0 being "none". Whatever does
not have this form is a `SourceFormatError` with the operation's place.
"""

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ocr_onnx_export.errors import SourceFormatError

Attribute: TypeAlias = bool | int | float | str | tuple["Attribute", ...] | None

# The largest known program has 0.4 MB. JSON of nothing but empty lists takes 27 times its size in memory.
MAX_PROGRAM_BYTES = 16 * 1024 * 1024
MAX_RANK = 16
MAX_DIMENSION = 2**31 - 1
MAX_NESTING = 4  # of lists in attributes; no known program nests them at all
DIALECTS = {"0": "builtin", "1": "pd_op"}
REMEDY = "fetch or export the model again with Paddle 3 (`inference.json` and `inference.pdiparams` together)"
_INTEGER_TAGS = frozenset({"0.a_i32", "0.a_i64"})
_FLOAT_TAGS = frozenset({"0.a_f32", "0.a_f64"})


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type ("f32", "i64", ..) and shape; -1 is a dimension known only when the program runs."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A numbered result. `type` is None for a list of tensors and for a result that is not there."""

    number: int
    type: TensorType | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A weight: its name in the parameter file, the value it defines, its type."""

    name: str
    number: int
    type: TensorType


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. `inputs` are value numbers, 0 for an operand left out."""

    name: str
    index: int
    attributes: Mapping[str, Attribute]
    inputs: tuple[int, ...]
    outputs: tuple[Value, ...]

    @property
    def place(self) -> str:
        """Where it stands, for messages: index, name and the layer it came from."""
        layer = self.attributes.get("struct_name")
        return f"operation {self.index} ({self.name}{f' in {layer}' if layer else ''})"


@dataclass(frozen=True, slots=True)
class Program:
    """A program in single-assignment form: every input of an op is a parameter or an earlier output."""

    path: Path
    parameters: tuple[Parameter, ...]
    ops: tuple[Op, ...]


def read_program(path: Path) -> Program:
    """Read `inference.json`.

    Raises
    ------
    SourceFormatError
        The file is missing, too large, not JSON, not PIR, has control flow, or a part of it is not
        of the form it should have.
    """
    return parse_program(read_bounded(path, MAX_PROGRAM_BYTES), path)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return a file's bytes; a file that is larger than `max_bytes` or can't be read is an error."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            raise SourceFormatError(str(path), f"has {size_bytes} bytes, more than {max_bytes}", REMEDY)
        return path.read_bytes()
    except OSError as error:
        raise SourceFormatError(str(path), f"can't be read ({error.strerror})", REMEDY) from error


def parse_program(text: bytes, path: Path) -> Program:
    """Parse the bytes of an `inference.json`; `path` is for messages. Raises like `read_program`."""
    reader = _Reader(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # bad encoding and absurd numbers are ValueErrors too
        raise reader.error("the file", f"is not JSON ({error})") from error
    root = reader.mapping(document, "the file")
    base = reader.mapping(root.get("base_code"), "base_code")
    if base.get("magic") != "pir":
        raise reader.error("base_code", "does not say that this is a PIR program")
    region = reader.only(reader.mapping(root.get("program"), "program").get("regions"), "program.regions")
    block = reader.only(region.get("blocks"), "program.regions.blocks")
    return reader.program(reader.entries(block.get("ops"), "the block's ops"))


@dataclass(slots=True)
class _Reader:
    """Checks while it reads; knows which values are defined so far."""

    path: Path
    defined: set[int] = field(default_factory=set)

    def error(self, place: str, problem: str) -> SourceFormatError:
        return SourceFormatError(f"{self.path}, {place}", problem, REMEDY)

    def mapping(self, item: Any, place: str) -> dict[str, Any]:
        if not isinstance(item, dict):
            raise self.error(place, f"should be an object, not {_short(item)}")
        return item

    def entries(self, item: Any, place: str) -> list[Any]:
        if not isinstance(item, list):
            raise self.error(place, f"should be a list, not {_short(item)}")
        return item

    def only(self, item: Any, place: str) -> dict[str, Any]:
        found = self.entries(item, place)
        if len(found) != 1:
            raise self.error(place, f"has {len(found)} entries, not 1; control flow is not supported")
        return self.mapping(found[0], place)

    def name(self, item: Any, place: str) -> str:
        # no control characters and no half surrogates: these names go into messages, files and ONNX
        if not isinstance(item, str) or not item or not item.isprintable():
            raise self.error(place, f"should be a name, not {_short(item)}")
        return item

    def integer(self, item: Any, place: str, low: int, high: int) -> int:
        if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
            raise self.error(place, f"should be an integer from {low} to {high}, not {_short(item)}")
        return item

    def program(self, items: list[Any]) -> Program:
        parameters: list[Parameter] = []
        ops: list[Op] = []
        for index, item in enumerate(items):
            place = f"operation {index}"
            entry = self.mapping(item, place)
            if entry.get("#") == "p":
                parameters.append(self.parameter(entry, place))
            else:
                ops.append(self.op(entry, index, place))
        if len({parameter.name for parameter in parameters}) != len(parameters):
            raise self.error("the parameters", "have a name twice")
        return Program(self.path, tuple(parameters), tuple(ops))

    def parameter(self, entry: dict[str, Any], place: str) -> Parameter:
        fields = self.entries(entry.get("A"), f"{place}, A")
        name = self.name(fields[-1] if fields else None, f"{place}, parameter name")
        value = self.value(entry.get("O"), f"{place} (parameter {name})")
        if value.type is None or min(value.type.shape, default=1) < 1:
            raise self.error(f"{place} (parameter {name})", "has no fixed shape")
        return Parameter(name, value.number, value.type)

    def op(self, entry: dict[str, Any], index: int, place: str) -> Op:
        name = self.op_name(entry.get("#"), place)
        place = f"{place} ({name})"
        if entry.get("regions"):
            raise self.error(place, "holds a region of its own; control flow is not supported")
        attributes = dict(self.attribute(item, place) for item in self.entries(entry.get("A"), f"{place}, A"))
        inputs = tuple(self.operand(item, place) for item in self.entries(entry.get("I"), f"{place}, I"))
        outputs = tuple(self.value(item, place) for item in self.entries(entry.get("O"), f"{place}, O"))
        return Op(name, index, attributes, inputs, outputs)

    def op_name(self, item: Any, place: str) -> str:
        dialect, dot, name = self.name(item, f"{place}, name").partition(".")
        if not dot or not re.fullmatch(r"\w+", name):
            raise self.error(place, f"has the unreadable name {_short(item)}")
        return f"{DIALECTS.get(dialect, dialect)}.{name}"

    def operand(self, item: Any, place: str) -> int:
        entry = self.mapping(item, f"{place}, operand")
        number = self.integer(entry.get("%"), f"{place}, operand", 0, MAX_DIMENSION)
        if number and number not in self.defined:
            raise self.error(place, f"uses value {number}, which nothing before it defines")
        return number

    def value(self, item: Any, place: str) -> Value:
        entry = self.mapping(item, f"{place}, result")
        number = self.integer(entry.get("%"), f"{place}, result", 1, MAX_DIMENSION)
        if number in self.defined:
            raise self.error(place, f"defines value {number} a second time")
        self.defined.add(number)
        return Value(number, self.tensor_type(entry.get("TT"), f"{place}, type of value {number}"))

    def tensor_type(self, item: Any, place: str) -> TensorType | None:
        entry = self.mapping(item, place)
        if entry.get("#") in ("NULL", "0.t_vec"):
            return None
        fields = self.entries(entry.get("D"), place)
        if entry.get("#") != "0.t_dtensor" or len(fields) < 2:
            raise self.error(place, f"is not a dense tensor but {_short(item)}")
        dtype = self.name(self.mapping(fields[0], place).get("#"), place).removeprefix("0.t_")
        dimensions = self.entries(fields[1], place)
        if len(dimensions) > MAX_RANK:
            raise self.error(place, f"has {len(dimensions)} dimensions, more than {MAX_RANK}")
        return TensorType(dtype, tuple(self.integer(size, place, -1, MAX_DIMENSION) for size in dimensions))

    def attribute(self, item: Any, place: str) -> tuple[str, Attribute]:
        entry = self.mapping(item, f"{place}, attribute")
        name = self.name(entry.get("N"), f"{place}, attribute name")
        return name, self.attribute_value(entry.get("AT"), f"{place}, attribute {name}")

    def attribute_value(self, item: Any, place: str, depth: int = 0) -> Attribute:
        entry = self.mapping(item, place)
        tag, data = self.name(entry.get("#"), place), entry.get("D")
        if tag == "0.a_array" and depth < MAX_NESTING:
            return tuple(
                self.attribute_value(element, place, depth + 1) for element in self.entries(data, place)
            )
        if tag in _INTEGER_TAGS:
            return self.integer(data, place, -(2**63), 2**63 - 1)
        if tag in _FLOAT_TAGS and isinstance(data, int | float) and not isinstance(data, bool):
            return float(self.integer(data, place, -(2**63), 2**63) if isinstance(data, int) else data)
        if tag == "0.a_bool" and isinstance(data, bool):
            return data
        if tag in ("0.a_str", "1.a_dtype") and isinstance(data, str) and (not data or data.isprintable()):
            return data
        if tag == "1.a_intarray":
            return tuple(self.integer(size, place, -(2**63), 2**63 - 1) for size in self.entries(data, place))
        if tag == "1.a_place":  # which device a constant is made on: means nothing outside Paddle
            return None
        raise self.error(place, f"has the unreadable value {_short(item)}")


def _short(item: Any) -> str:
    # reprlib goes a few levels deep and a few entries wide: Python 3.14 reads JSON so deep that its
    # own repr fails on it
    text = reprlib.repr(item).encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= 60 else f"{text[:57]}..."
