import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from ocr_onnx import contract
from ocr_onnx.errors import ModelMissingError
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_bench import models, repsvtr
from ocr_onnx_export import reports
from tests.export.pir_programs import tiny_rec


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelOptions:
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))
    return ModelOptions()


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of graphs without weights, as the publisher's would lie, with one of a tiny recogniser."""
    folder = tmp_path / "models"
    tiny_rec(classes=4).save(folder / "graphs" / "Tiny_rec")
    (folder / "graphs" / "Tiny_rec" / "inference.pdiparams").unlink()
    keys = folder / "paddle" / "PP-OCRv4_mobile_rec" / "ppocr_keys_v1.txt"
    keys.parent.mkdir(parents=True)
    keys.write_text("a\nb\n", encoding="utf-8")
    subject = reports.Subject("Tiny_rec", "Tiny_rec", (4, 4))
    monkeypatch.setattr(reports, "SUBJECTS", (subject,))
    return folder


def test_a_model_at_hand_has_its_own_weights(options: ModelOptions, tmp_path: Path) -> None:
    found = models.obtain("PP-OCRv4_mobile_det", "fp32", options, None, tmp_path)
    assert (found.stage, found.weights) == ("det", "real")
    assert hashlib.sha256(found.path.read_bytes()).hexdigest() == found.sha256


def test_a_graph_gets_synthesised_weights(options: ModelOptions, graphs: Path, tmp_path: Path) -> None:
    found = models.obtain("Tiny_rec", "fp32", options, graphs, tmp_path)
    assert (found.stage, found.weights) == ("rec", "synthesised")
    assert [one.name for one in Session(found.path, RuntimeOptions()).inputs] == ["image", "valid_w"]
    int8 = models.obtain("Tiny_rec", "int8", options, graphs, tmp_path)
    assert int8.sha256 != found.sha256
    assert "MatMulInteger" in {node.op_type for node in onnx.load(int8.path).graph.node}


def test_a_model_that_is_nowhere_is_missing(options: ModelOptions, graphs: Path, tmp_path: Path) -> None:
    shutil.rmtree(graphs / "graphs")
    for name in ("Tiny_rec", "ch_SVTRv2_rec"):
        with pytest.raises(ModelMissingError, match="is not on this machine"):
            models.obtain(name, "fp32", options, graphs, tmp_path)


def test_the_graphs_folder_is_given_or_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(models.GRAPHS_VARIABLE, raising=False)
    assert models.graphs_folder(None) is None
    monkeypatch.setenv(models.GRAPHS_VARIABLE, "named")
    assert models.graphs_folder(None) == Path("named")
    assert models.graphs_folder(tmp_path) == tmp_path


def test_rep_svtr_is_the_published_network(options: ModelOptions, tmp_path: Path) -> None:
    model = repsvtr.rep_svtr()
    onnx.checker.check_model(model, full_check=True)
    parameters = sum(int(np.prod(one.dims)) for one in model.graph.initializer)
    assert 6.2e6 < parameters < 6.3e6
    found = models.obtain("ch_RepSVTR_rec", "fp32", options, None, tmp_path)
    assert found.weights == "rebuilt"
    infer = contract.rec_infer(Session(found.path, RuntimeOptions()), "rep_svtr", repsvtr.CLASSES)
    steps = infer(np.zeros((2, 48, 64, 3), np.uint8), np.array([64, 64], np.int32))
    assert steps.labels.shape == (2, 8)
