"""The files that peers run on: what is given, what is missing, and whether they are the same weights."""

import json
from pathlib import Path

import pytest

from ocr_onnx import model_store
from ocr_onnx.errors import ModelError, OptionError
from ocr_onnx.options import ModelOptions
from ocr_onnx_bench import peer_models

DEMO = Path(__file__).parents[1] / "data" / "boarding-pass.png"


def test_the_same_weights_agree() -> None:
    files = model_store.resolve(ModelOptions(offline=True))
    found = peer_models.check_agreement({"det": files.det.path, "rec": files.rec.path}, DEMO)
    assert (found.page, found.det_max_difference) == (DEMO.name, 0.0)
    assert found.lines == found.lines_equal > 10


def test_other_weights_are_refused(tiny_det: Path) -> None:
    rec = model_store.resolve(ModelOptions(offline=True)).rec.path
    with pytest.raises(ModelError, match=r"are other weights than ours: on boarding-pass\.png"):
        peer_models.check_agreement({"det": tiny_det, "rec": rec}, DEMO)


def test_stock_files_are_given_in_pairs(tiny_det: Path, tmp_path: Path) -> None:
    assert peer_models.given_stock(None, None) is None
    assert peer_models.given_stock(tiny_det, tiny_det) == {"det": tiny_det, "rec": tiny_det}
    with pytest.raises(OptionError, match="comes together with --rec-model"):
        peer_models.given_stock(tiny_det, None)
    with pytest.raises(OptionError, match="--rec-model: there is no file"):
        peer_models.given_stock(tiny_det, tmp_path / "none.onnx")


def test_a_wheel_without_the_pinned_files_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    models = tmp_path / "lib" / "python3.12" / "site-packages" / "rapidocr_onnxruntime" / "models"
    models.mkdir(parents=True)
    (models / "ch_PP-OCRv4_det_infer.onnx").write_bytes(b"another one")
    with pytest.raises(
        ModelError, match=r"ch_PP-OCRv4_det_infer\.onnx: is not in RapidOCR's wheel as expected"
    ):
        peer_models.shipped_stock(python)


@pytest.fixture
def paddle(tmp_path: Path) -> Path:
    """Both models in the old form, without `inference.yml`."""
    for name in peer_models.PADDLE_NAMES.values():
        folder = tmp_path / "models" / "paddle" / name
        folder.mkdir(parents=True)
        for file in ("inference.pdmodel", "inference.pdiparams"):
            (folder / file).write_text(name)
    return tmp_path / "models"


def test_old_paddle_folders_get_what_paddleocr_asks_for(paddle: Path, tmp_path: Path) -> None:
    folders = peer_models.paddle_folders(paddle, tmp_path)
    assert folders == {"det": tmp_path / "PP-OCRv4_mobile_det", "rec": tmp_path / "PP-OCRv4_mobile_rec"}
    det, rec = (json.loads((folders[stage] / "inference.yml").read_text("utf-8")) for stage in ("det", "rec"))
    assert det["Global"]["model_name"] == "PP-OCRv4_mobile_det"
    assert det["PostProcess"]["name"] == "DBPostProcess"
    assert len(rec["PostProcess"]["character_dict"]) == 6623
    assert (folders["rec"] / "inference.pdiparams").read_text() == "PP-OCRv4_mobile_rec"
    assert not (paddle / "paddle" / "PP-OCRv4_mobile_det" / "inference.yml").exists()


def test_whole_paddle_folders_are_taken_as_they_are(paddle: Path, tmp_path: Path) -> None:
    for name in peer_models.PADDLE_NAMES.values():
        (paddle / "paddle" / name / "inference.yml").write_text("{}")
    folders = peer_models.paddle_folders(paddle / "paddle", tmp_path)
    assert folders["det"] == paddle / "paddle" / "PP-OCRv4_mobile_det"


def test_a_missing_paddle_model_is_named(tmp_path: Path) -> None:
    assert peer_models.paddle_folders(None, tmp_path) == {}
    with pytest.raises(ModelError, match=r"PP-OCRv4_mobile_det/inference.pdiparams: is not in the folder"):
        peer_models.paddle_folders(tmp_path, tmp_path)


def test_only_the_files_of_the_manifest_are_pinned() -> None:
    spec = model_store.load_manifest().model("ppocrv4-mobile-det")
    params = next(file for file in spec.sources[0].files if file.name == "inference.pdiparams")
    assert params.sha256 is not None
    assert peer_models.are_pinned([("det", params.sha256)])
    assert not peer_models.are_pinned([("det", params.sha256), ("rec", "0" * 64)])
    assert not peer_models.are_pinned([])
