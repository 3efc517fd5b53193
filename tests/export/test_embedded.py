"""The embedded models made again by `ocr-onnx export`, byte for byte; needs Paddle and the Paddle files.

OCR_ONNX_PADDLE_MODELS names the folder that has `paddle/OFFICIAL_NAME/`.
"""

import hashlib
import os
from pathlib import Path

import pytest

from ocr_onnx import model_store
from ocr_onnx.errors import DependencyError
from ocr_onnx_export import command
from ocr_onnx_export.paddle_route import PaddleTool

VARIABLE = "OCR_ONNX_PADDLE_MODELS"
EMBEDDED = ("ppocrv4-mobile-det", "ppocrv4-mobile-rec", "ppocr-mobile-v2-cls")


@pytest.fixture(scope="module")
def models() -> Path:
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} is not set")
    try:
        PaddleTool.find().versions()
    except DependencyError as error:
        pytest.skip(str(error))
    return Path(os.environ[VARIABLE])


@pytest.mark.export
@pytest.mark.parametrize("name", EMBEDDED)
def test_the_command_makes_the_embedded_model_again(name: str, models: Path, tmp_path: Path) -> None:
    spec = model_store.load_manifest().model(name)
    assert spec.official is not None
    source = models / "paddle" / spec.official
    [published] = command.export(name, tmp_path / "out", source=source)
    assert hashlib.sha256(published.path.read_bytes()).hexdigest() == spec.sha256
