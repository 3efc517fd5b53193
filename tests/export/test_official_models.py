"""The official models by both routes against Paddle; OCR_ONNX_PADDLE_MODELS names the folder they are in.

The folder holds `paddle/NAME/` (legacy programs with weights) and `graphs/NAME/` (PIR programs
without weights, which are synthesised here).
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from ocr_onnx_export import parity, reports
from ocr_onnx_export.routes import convert_source
from ocr_onnx_export.sources import Source

VARIABLE = "OCR_ONNX_PADDLE_MODELS"
MODELS = Path(os.environ.get(VARIABLE, ""))
needs_models = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")

# official name -> name of the embedded file
EMBEDDED = {
    "PP-OCRv4_mobile_det": "ppocrv4-mobile-det",
    "PP-OCRv4_mobile_rec": "ppocrv4-mobile-rec",
    "ch_ppocr_mobile_v2.0_cls": "ppocr-mobile-v2-cls",
}
# name -> size of its official parameter file in bytes
SYNTHESISED = {
    "PP-OCRv4_server_det": 113_295_054,
    "PP-OCRv4_server_rec": 90_453_599,
    "PP-OCRv4_server_rec_doc": 94_812_503,
    "ch_SVTRv2_rec": 83_949_899,
}


def opened(name: str, folder: Path) -> Source:
    """Return a model's files, with weights synthesised into `folder` where it has none."""
    return reports.open_subject(next(one for one in reports.SUBJECTS if one.name == name), MODELS, folder)


@needs_models
@pytest.mark.parametrize("name", SYNTHESISED)
def test_synthesised_parameters_have_the_official_size(name: str, tmp_path: Path) -> None:
    assert opened(name, tmp_path).parameters.stat().st_size == SYNTHESISED[name]


@needs_models
@pytest.mark.parametrize("name", SYNTHESISED)
def test_light_route_is_repeatable_and_needs_no_paddle(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_ONNX_PADDLE_PYTHON", str(tmp_path / "no-such-python"))
    source = opened(name, tmp_path)
    assert convert_source(source, name).data == convert_source(source, name).data


@needs_models
@pytest.mark.export
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*EMBEDDED, *SYNTHESISED])
def test_both_routes_agree_with_paddle(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("paddle", reason="PaddlePaddle is not installed (dependency group `paddle`)")
    source = opened(name, tmp_path)
    candidates = {}
    for route in ("light", "paddle2onnx"):
        converted = convert_source(source, name, route=route)
        candidates[route] = tmp_path / f"{route}.onnx"
        candidates[route].write_bytes(converted.data)
    stage = converted.label.stage
    report = parity.compare(source, stage, candidates, parity.QUICK_GRID[stage], model=name)
    assert report.passed, report.to_markdown()
    if name in SYNTHESISED:  # equal decisions mean something
        text = [one for one in report.comparisons if one.kind == "text"]
        floor, ceiling = (0.05, 0.95) if stage == "det" else (10, np.inf)
        assert all(floor <= one.variety <= ceiling for one in text), report.to_markdown()
