"""The reader of `inference.json` believes nothing: what is not a program is an error with its place."""

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_onnx_export import pir
from ocr_onnx_export.errors import SourceFormatError
from tests.export.pir_programs import tiny_det

PATH = Path("inference.json")


def ops(document: dict[str, Any]) -> list[Any]:
    found: list[Any] = document["program"]["regions"][0]["blocks"][0]["ops"]
    return found


def test_program_has_parameters_and_ops_in_order() -> None:
    program = tiny_det().program()
    assert [parameter.name for parameter in program.parameters] == ["conv2d_0.w_0", "conv2d_0.b_0"]
    assert program.parameters[0].type == pir.TensorType("f32", (1, 3, 3, 3))
    assert [op.name for op in program.ops] == [
        "pd_op.feed",
        "pd_op.conv2d",
        "pd_op.full_int_array",
        "pd_op.reshape",
        "pd_op.add",
        "pd_op.sigmoid",
        "pd_op.fetch",
    ]
    conv = program.ops[1]
    assert conv.attributes["strides"] == (1, 1)
    assert conv.outputs[0].type == pir.TensorType("f32", (-1, 1, -1, -1))
    assert conv.place == "operation 3 (pd_op.conv2d)"


def test_layer_is_part_of_the_place() -> None:
    document = tiny_det().document()
    ops(document)[3]["A"].append({"N": "struct_name", "AT": {"#": "0.a_str", "D": "/Backbone/Conv/"}})
    program = pir.parse_program(json.dumps(document).encode(), PATH)
    assert program.ops[1].place == "operation 3 (pd_op.conv2d in /Backbone/Conv/)"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[" + b"9" * 10_000 + b"]", "is not JSON"),
        (b"[]", "should be an object"),
        (b"{}", "base_code"),
        (b'{"base_code": {"magic": "onnx"}}', "does not say that this is a PIR program"),
        (b'{"base_code": {"magic": "pir"}, "program": {"regions": []}}', "control flow"),
        (b'{"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [{}, {}]}]}}', "control flow"),
    ],
)
def test_what_is_no_program(text: bytes, problem: str) -> None:
    with pytest.raises(SourceFormatError, match=problem):
        pir.parse_program(text, PATH)


def put(index: int, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        ops(document)[index][key] = value

    return change


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"#": "0.a_i32", "D": 1}
    for _ in range(depth):
        value = {"#": "0.a_array", "D": [value]}
    return value


def put_shape(index: int, shape: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        output = ops(document)[index]["O"]
        (output if isinstance(output, dict) else output[0])["TT"]["D"][1] = shape

    return change


@pytest.mark.parametrize(
    ("change", "place", "problem"),
    [
        (put(3, "#", "conv2d"), "operation 3", "unreadable name"),
        (put(3, "#", 7), "operation 3", "should be a name"),
        (put(3, "#", "1.conv\n2d"), "operation 3", "should be a name"),
        (put(3, "A", {}), "operation 3 \\(pd_op.conv2d\\), A", "should be a list"),
        (put(3, "I", [{"%": 99}]), "operation 3", "nothing before it defines"),
        (put(3, "I", [{"%": True}]), "operation 3", "should be an integer"),
        (put(3, "I", [{"%": -1}]), "operation 3", "should be an integer"),
        (put(3, "regions", [{}]), "operation 3", "control flow"),
        (put(0, "A", []), "operation 0", "should be a name"),
        (put(0, "A", [1, "\ud800"]), "operation 0", "should be a name"),
        (put(1, "A", [0, 1, 1, "conv2d_0.w_0"]), "the parameters", "twice"),
        (put_shape(0, [1, 3, 3, -1]), "operation 0", "no fixed shape"),
        (put_shape(0, [1, 3, 3, 0]), "operation 0", "no fixed shape"),
        (put_shape(3, [2**40]), "operation 3", "should be an integer"),
        (put_shape(3, [-2]), "operation 3", "should be an integer"),
        (put_shape(3, [1] * 17), "operation 3", "17 dimensions"),
        (put_shape(3, None), "operation 3", "should be a list"),
        (put(3, "O", [{"%": 1, "TT": {"#": "NULL"}}]), "operation 3", "a second time"),
        (
            put(3, "O", [{"%": 50, "TT": {"#": "0.t_sparse", "D": [1, 2]}}]),
            "operation 3",
            "not a dense tensor",
        ),
        (put(3, "A", [{"N": "groups", "AT": {"#": "0.a_i32", "D": "1"}}]), "attribute groups", "an integer"),
        (put(3, "A", [{"N": "groups", "AT": {"#": "9.odd", "D": 1}}]), "attribute groups", "unreadable"),
        (put(3, "A", [{"N": "groups", "AT": None}]), "attribute groups", "should be an object"),
        (put(3, "A", [{"N": "groups", "AT": nested(5)}]), "attribute groups", "unreadable"),
    ],
)
def test_errors_name_their_place(change: Callable[[dict[str, Any]], None], place: str, problem: str) -> None:
    document = tiny_det().document()
    change(document)
    with pytest.raises(SourceFormatError, match=f"(?s)inference.json, .*{place}.*{problem}"):
        pir.parse_program(json.dumps(document).encode(), PATH)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match="can't be read"):
        pir.read_program(tmp_path / "inference.json")


def test_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "inference.json"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(pir.MAX_PROGRAM_BYTES + 1)  # sparse: no disk is used
    with pytest.raises(SourceFormatError, match="more than"):
        pir.read_program(path)


@pytest.mark.parametrize("depth", [900, 50_000, 60_000])
def test_nesting_without_end(depth: int) -> None:
    """Python 3.14 reads JSON deeper than it can print it."""
    document = tiny_det().document()
    ops(document)[3]["A"] = [{"N": "groups", "AT": {"#": "0.a_i32", "D": "DEEP"}}]
    text = json.dumps(document).replace('"DEEP"', "[" * depth + "]" * depth)
    with pytest.raises(SourceFormatError, match=r"should be an integer|is not JSON"):
        pir.parse_program(text.encode(), PATH)


def test_layouts_of_attribute_values() -> None:
    document = tiny_det().document()
    values = [("0.a_f64", 2, 2.0), ("0.a_i64", -(2**63), -(2**63)), ("1.a_place", [0, 0, ""], None)]
    ops(document)[3]["A"] = [
        {"N": f"a{n}", "AT": {"#": tag, "D": data}} for n, (tag, data, _) in enumerate(values)
    ]
    program = pir.parse_program(json.dumps(document).encode(), PATH)
    assert [program.ops[1].attributes[f"a{n}"] for n in range(3)] == [value for _, _, value in values]


def paths_of(item: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in a document, the document itself left out."""
    children = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    return [place for key, child in children for place in [(*path, key), *paths_of(child, (*path, key))]]


DOCUMENT = tiny_det().document()
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.sampled_from(["#", "%", "A", "D", "TT", "N"]), st.integers(-3, 60), max_size=3),
)


@given(place=st.sampled_from(paths_of(DOCUMENT)), odd=ODD, delete=st.booleans())
def test_a_document_with_one_odd_place_is_read_or_refused(
    place: tuple[Any, ...], odd: Any, delete: bool
) -> None:
    document = copy.deepcopy(DOCUMENT)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    if delete:
        del parent[place[-1]]
    else:
        parent[place[-1]] = odd
    with contextlib.suppress(SourceFormatError):  # any other error fails the test
        assert isinstance(pir.parse_program(json.dumps(document).encode(), PATH), pir.Program)
