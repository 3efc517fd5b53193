"""The reader of `inference.pdiparams` is led by the program; the file decides nothing."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ocr_onnx_export import pdiparams
from ocr_onnx_export.errors import SourceFormatError
from ocr_onnx_export.pir import Parameter, TensorType
from ocr_onnx_export.synthesise import synthesise, synthesise_file
from tests.export.pir_programs import tiny_det, tiny_rec

PATH = Path("inference.pdiparams")
VALUES = {"b.w_0": np.arange(6, dtype=np.float32).reshape(2, 3), "a.b_0": np.array([7.5], np.float32)}
PARAMETERS = tuple(
    Parameter(name, index, TensorType("f32", value.shape))
    for index, (name, value) in enumerate(VALUES.items())
)
IN_ORDER = tuple(sorted(PARAMETERS, key=lambda parameter: parameter.name))


def test_bytes_are_laid_out_as_by_paddle() -> None:
    first = struct.pack("<IQIi", 0, 0, 0, 4) + b"\x08\x05\x10\x01" + struct.pack("<f", 7.5)
    second = struct.pack("<IQIi", 0, 0, 0, 6) + b"\x08\x05\x10\x02\x10\x03" + struct.pack("<6f", *range(6))
    assert pdiparams.to_bytes(VALUES) == first + second


def test_file_comes_back_by_name(tmp_path: Path) -> None:
    path = tmp_path / "inference.pdiparams"
    path.write_bytes(pdiparams.to_bytes(VALUES))
    read = pdiparams.read_parameters(path, PARAMETERS)
    assert {name: value.tolist() for name, value in read.items()} == {
        name: value.tolist() for name, value in VALUES.items()
    }


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=5, max_side=300, min_side=1).filter(
            lambda shape: np.prod(shape) < 1000
        ),
    )
)
def test_any_shape_comes_back(value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    parameter = Parameter("p.w_0", 1, TensorType("f32", value.shape))
    read = pdiparams.parse_parameters(pdiparams.to_bytes({"p.w_0": value}), (parameter,), PATH)
    np.testing.assert_array_equal(read["p.w_0"], value)


@pytest.mark.parametrize(
    ("dtype", "number"), [("f16", 4), ("f64", 6), ("i32", 2), ("i64", 3), ("bool", 0), ("i8", 21)]
)
def test_other_element_types(dtype: str, number: int) -> None:
    layout = np.dtype(pdiparams.DTYPES[dtype][1])
    value = np.array([1, 0, 1], layout)
    data = struct.pack("<IQIi", 0, 0, 0, 4) + bytes([8, number, 16, 3]) + value.tobytes()
    read = pdiparams.parse_parameters(data, (Parameter("p", 1, TensorType(dtype, (3,))),), PATH)
    assert read["p"].dtype == layout
    assert read["p"].tolist() == value.tolist()


@pytest.mark.parametrize("length", range(len(pdiparams.to_bytes(VALUES))))
def test_truncated_anywhere(length: int) -> None:
    with pytest.raises(SourceFormatError, match=r"cut off|not there|unreadable number"):
        pdiparams.parse_parameters(pdiparams.to_bytes(VALUES)[:length], IN_ORDER, PATH)


def test_one_parameter_too_many() -> None:
    with pytest.raises(SourceFormatError, match="after the last of 1 parameters"):
        pdiparams.parse_parameters(pdiparams.to_bytes(VALUES), IN_ORDER[:1], PATH)


def test_one_parameter_too_few() -> None:
    more = (*IN_ORDER, Parameter("c.w_0", 3, TensorType("f32", (1,))))
    with pytest.raises(SourceFormatError, match=r"parameter 3 of 3 \(c.w_0\).*missing"):
        pdiparams.parse_parameters(pdiparams.to_bytes(VALUES), more, PATH)


def test_another_shape_is_named() -> None:
    other = (IN_ORDER[0], Parameter("b.w_0", 1, TensorType("f32", (3, 2))))
    with pytest.raises(SourceFormatError, match=r"parameter 2 of 2 \(b.w_0\).*shape \[2, 3\].*\[3, 2\]"):
        pdiparams.parse_parameters(pdiparams.to_bytes(VALUES), other, PATH)


def test_another_element_type_is_named() -> None:
    other = (Parameter("a.b_0", 1, TensorType("i32", (1,))), IN_ORDER[1])
    with pytest.raises(SourceFormatError, match=r"element type 5.*the program says 2"):
        pdiparams.parse_parameters(pdiparams.to_bytes(VALUES), other, PATH)


def test_an_element_type_no_one_knows(tmp_path: Path) -> None:
    path = tmp_path / "inference.pdiparams"
    path.touch()
    with pytest.raises(SourceFormatError, match="element type c64"):
        pdiparams.read_parameters(path, (Parameter("p", 1, TensorType("c64", (1,))),))


def test_oversized_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "inference.pdiparams"
    path.write_bytes(pdiparams.to_bytes(VALUES))
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: reading it would not end well
    with pytest.raises(SourceFormatError, match="where 78 belong"):
        pdiparams.read_parameters(path, PARAMETERS)


def test_program_that_asks_for_terabytes_allocates_nothing() -> None:
    huge = (Parameter("a.b_0", 1, TensorType("f32", (2**31 - 1, 2**31 - 1))),)
    descriptor = b"\x08\x05" + 2 * b"\x10\xff\xff\xff\xff\x07"
    with pytest.raises(SourceFormatError, match="bytes are missing"):
        pdiparams.parse_parameters(struct.pack("<IQIi", 0, 0, 0, len(descriptor)) + descriptor, huge, PATH)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match="can't be read"):
        pdiparams.read_parameters(tmp_path / "inference.pdiparams", PARAMETERS)


@given(st.binary(max_size=120))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SourceFormatError):
        pdiparams.parse_parameters(data, IN_ORDER, PATH)


@given(at=st.integers(0, len(pdiparams.to_bytes(VALUES)) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_is_refused_or_changes_one_value(at: int, byte: int) -> None:
    data = bytearray(pdiparams.to_bytes(VALUES))
    data[at] = byte
    try:
        read = pdiparams.parse_parameters(bytes(data), IN_ORDER, PATH)
    except SourceFormatError:
        return
    assert {name: value.shape for name, value in read.items()} == {
        name: value.shape for name, value in VALUES.items()
    }


def test_synthesised_file_fits_its_program() -> None:
    program = tiny_det().program()
    data = synthesise_file(program)
    in_order = sorted(program.parameters, key=lambda parameter: parameter.name)
    assert set(pdiparams.parse_parameters(data, in_order, PATH)) == {"conv2d_0.w_0", "conv2d_0.b_0"}


def test_synthesis_is_a_function_of_program_and_seed() -> None:
    program = tiny_rec().program()
    assert synthesise_file(program, seed=3) == synthesise_file(program, seed=3)
    assert synthesise_file(program, seed=3) != synthesise_file(program, seed=4)


def test_synthesised_statistics_can_be_normalised_with() -> None:
    names = ("batch_norm2d_0.w_0", "batch_norm2d_0.b_0", "batch_norm2d_0.w_1", "batch_norm2d_0.w_2")
    parameters = tuple(Parameter(name, n, TensorType("f32", (1000,))) for n, name in enumerate(names, 1))
    program = tiny_det().program()
    values = synthesise(type(program)(PATH, parameters, ()))
    assert values["batch_norm2d_0.w_2"].min() > 0.4
    assert values["batch_norm2d_0.w_0"].min() > 0.7
    assert abs(values["batch_norm2d_0.w_1"].mean()) < 0.05
