import contextlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ocr_onnx.errors import ModelContractError
from ocr_onnx.runtime.cast_first import cast_first

MODELS = Path(__file__).parent.parent / "models"
RANDOM = np.random.default_rng(0)
LINES = {
    "image": RANDOM.integers(0, 256, (3, 48, 192, 3), dtype=np.uint8),
    "valid_w": np.array([192, 100, 7], np.int32),
}
PAGE = {"image": RANDOM.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)}


@pytest.mark.parametrize(
    ("name", "feeds"),
    [("ppocrv4-mobile-det", PAGE), ("ppocrv4-mobile-rec", LINES), ("ppocr-mobile-v2-cls", LINES)],
)
def test_embedded_models_answer_the_same_with_the_cast_first(
    name: str, feeds: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
) -> None:
    model = (MODELS / f"{name}.onnx").read_bytes()
    changed = cast_first(model, name)
    graph = onnx.load_from_string(changed)
    onnx.checker.check_model(graph, full_check=True)
    first, *others = graph.graph.node
    assert (first.op_type, list(first.input)) == ("Cast", ["image"])
    assert not any("image" in node.input for node in others)
    before, after = (
        ort.InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, feeds)
        for one in (model, changed)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert cast_first(changed, name) == changed


def test_what_has_no_such_beginning_stays_as_it_is(tiny_det: Path, tiny_rec: Path) -> None:
    for path in (tiny_det, tiny_rec):
        assert cast_first(path.read_bytes(), str(path)) == path.read_bytes()


def _model(nodes: list[onnx.NodeProto], noted: bool = False) -> bytes:
    value = helper.make_tensor_value_info("t", TensorProto.UINT8, ["N", 3, "H", "W"])
    graph = helper.make_graph(
        nodes,
        "beginning",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        value_info=[value] if noted else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


TRANSPOSE = helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2])
CAST = helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT)


def test_what_the_graph_notes_of_the_bytes_between_is_dropped() -> None:
    changed = onnx.load_from_string(cast_first(_model([TRANSPOSE, CAST], noted=True), "model"))
    assert not changed.graph.value_info
    assert onnx.shape_inference.infer_shapes(changed, strict_mode=True)
    assert [node.op_type for node in changed.graph.node] == ["Cast", "Transpose"]


@pytest.mark.parametrize(
    "nodes",
    [
        [TRANSPOSE, CAST, helper.make_node("Identity", ["t"], ["other"])],
        [TRANSPOSE, CAST, helper.make_node("Identity", ["image"], ["other"])],
        [TRANSPOSE, helper.make_node("Identity", ["t"], ["y"])],
        [CAST],
    ],
)
def test_bytes_that_are_used_otherwise_stay_bytes(nodes: list[onnx.NodeProto]) -> None:
    model = helper.make_model(helper.make_graph(nodes, "g", [], [])).SerializeToString()
    assert cast_first(model, "model") == model


@pytest.mark.parametrize("content", [b"\x3a", b"\x3a\xff\xff", b"this is no model", b"\x3b\x00"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ModelContractError, match=r"x\.onnx: can't be read as an ONNX model"):
        cast_first(content, "x.onnx")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_come_back(content: bytes) -> None:
    with contextlib.suppress(ModelContractError):
        assert isinstance(cast_first(content, "x"), bytes)
