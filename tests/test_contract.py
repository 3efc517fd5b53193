from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ocr_onnx import contract
from ocr_onnx.data import F32Array
from ocr_onnx.errors import ModelContractError
from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session, TensorInfo
from ocr_onnx_export.rewrite import FOR_STAGE, rewrite


def _open(path: Path) -> Session:
    return Session(path, RuntimeOptions("cpu", threads=1))


def _stock(path: Path, stage: Stage) -> Session:  # noqa: ARG001 - the shape of `_rewritten`
    return _open(path)


def _rewritten(path: Path, stage: Stage) -> Session:
    rewritten = path.with_suffix(".rewritten.onnx")
    onnx.save(rewrite(onnx.load(path), FOR_STAGE[stage]), rewritten)
    session = _open(rewritten)
    assert session.inputs[0].dtype == "tensor(uint8)"
    return session


@pytest.mark.parametrize("kind", [_stock, _rewritten])
def test_each_stage_runs_its_own_model(
    tiny_det: Path, tiny_rec: Path, tiny_cls: Path, kind: Callable[[Path, Stage], Session]
) -> None:
    page = np.full((2, 32, 64, 3), 255, np.uint8)
    page[:, 8:24] = 0
    prob_map = contract.det_infer(kind(tiny_det, "det"), "d")(page)
    assert prob_map.shape == (2, 32, 64)
    assert prob_map[0, 16].min() > 0.9 > 0.1 > prob_map[0, 0].max()

    lines = np.full((2, 48, 32, 3), 255, np.uint8)
    lines[:, :, 8:16] = 0
    lines[1, :, 24:] = 0  # right of the second line's width, so it must not be seen
    steps = contract.rec_infer(kind(tiny_rec, "rec"), "r", 4)(lines, np.array([32, 24], np.int32))
    assert steps.labels[:, :3].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert steps.labels[0, 3] == 0
    assert steps.probs.shape == (2, 4)
    assert steps.probs[1, 3] == pytest.approx(0.25)  # all classes alike where the input is zero

    turned = np.full((1, 48, 192, 3), 255, np.uint8)
    turned[:, :, :96] = 0
    probs = contract.cls_infer(kind(tiny_cls, "cls"), "c")(turned, np.array([192], np.int32))
    assert probs.shape == (1, 2)
    assert probs[0, 1] > 0.99


def test_a_model_of_the_wrong_stage_is_refused(tiny_det: Path, tiny_rec: Path, tiny_cls: Path) -> None:
    with pytest.raises(
        ModelContractError, match="mine: is a rec model, not a det model; give a PP-OCR det model"
    ):
        contract.det_infer(_open(tiny_rec), "mine")
    with pytest.raises(ModelContractError, match="is a det model, not a cls model"):
        contract.cls_infer(_open(tiny_det), "mine")
    with pytest.raises(ModelContractError, match="is a cls model, not a rec model"):
        contract.rec_infer(_open(tiny_cls), "mine", 4)


def _without_metadata(path: Path) -> Session:
    session = _open(path)
    session.metadata.clear()
    return session


def test_shapes_tell_the_stage_where_metadata_does_not(
    tiny_det: Path, tiny_rec: Path, tiny_cls: Path
) -> None:
    with pytest.raises(ModelContractError, match=r"puts out .*which no det model does"):
        contract.det_infer(_without_metadata(tiny_rec), "mine")
    with pytest.raises(ModelContractError, match=r"puts out .*which no cls model does"):
        contract.cls_infer(_without_metadata(tiny_det), "mine")
    with pytest.raises(ModelContractError, match=r"puts out .*which no rec model does"):
        contract.rec_infer(_without_metadata(tiny_cls), "mine", 4)
    contract.det_infer(_without_metadata(tiny_det), "mine")


def test_a_dictionary_of_the_wrong_length_is_refused(tiny_rec: Path) -> None:
    with pytest.raises(ModelContractError, match=r"has 4 classes, but its dictionary makes 7 .*of 2 lines"):
        contract.rec_infer(_open(tiny_rec), "mine", 7)


def test_fixed_sizes_are_refused(tiny_det: Path, tiny_rec: Path) -> None:
    det, rec = _open(tiny_det), _open(tiny_rec)
    det.inputs = (TensorInfo("x", "tensor(float)", (1, 3, 640, 640)),)
    with pytest.raises(ModelContractError, match=r"takes x .*640.* only, .*free sizes"):
        contract.det_infer(det, "mine")
    rec.inputs = (TensorInfo("x", "tensor(float)", (None, 3, 32, None)),)
    with pytest.raises(ModelContractError, match="only"):
        contract.rec_infer(rec, "mine", 4)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (np.zeros((1, 1, 8, 16), np.float32), r"made a map of shape \(1, 1, 8, 16\)"),
        (np.full((1, 1, 32, 64), np.nan, np.float32), "no numbers"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(
    tiny_det: Path, monkeypatch: pytest.MonkeyPatch, output: F32Array, problem: str
) -> None:
    infer = contract.det_infer(_open(tiny_det), "mine")
    monkeypatch.setattr(Session, "__call__", lambda *_: [output])
    with pytest.raises(ModelContractError, match=problem):
        infer(np.zeros((1, 32, 64, 3), np.uint8))


def test_other_inputs_are_refused(tiny_det: Path) -> None:
    session = _open(tiny_det)
    session.inputs = (*session.inputs, *session.inputs)
    with pytest.raises(ModelContractError, match="instead of one batch of images"):
        contract.det_infer(session, "mine")
