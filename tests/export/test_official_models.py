"""The official models by both routes against Paddle; OCR_ONNX_PADDLE_MODELS names the folder they are in.

The folder holds `paddle/NAME/` (legacy programs with weights) and `graphs/NAME/` (PIR programs
without weights, which are synthesised here).
"""

import os
import shutil
import warnings
from pathlib import Path

import pytest

from ocr_onnx_export import parity, pir
from ocr_onnx_export.routes import convert_source
from ocr_onnx_export.sources import Source, read_source
from ocr_onnx_export.synthesise import synthesise_file

VARIABLE = "OCR_ONNX_PADDLE_MODELS"
MODELS = Path(os.environ.get(VARIABLE, ""))
needs_models = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")

# official name -> name of the embedded file
EMBEDDED = {
    "PP-OCRv4_mobile_det": "ppocrv4-mobile-det",
    "PP-OCRv4_mobile_rec": "ppocrv4-mobile-rec",
    "ch_ppocr_mobile_v2.0_cls": "ppocr-mobile-v2-cls",
}
# name -> the graph it shares, size of its official parameter file in bytes
GRAPHS = {
    "PP-OCRv4_server_det": ("PP-OCRv4_server_det", 113_295_054),
    "PP-OCRv4_server_rec": ("PP-OCRv4_server_rec_doc", 90_453_599),
    "PP-OCRv4_server_rec_doc": ("PP-OCRv4_server_rec_doc", 94_812_503),
    "ch_SVTRv2_rec": ("ch_SVTRv2_rec", 83_949_899),
}


def synthesised(name: str, folder: Path) -> Source:
    """Return a source with synthesised weights; server_rec is the rec_doc graph with fewer classes."""
    graph = MODELS / "graphs" / GRAPHS[name][0]
    text = (graph / "inference.json").read_text(encoding="utf-8")
    if name == "PP-OCRv4_server_rec":
        text = text.replace("15631", "6625")
        shutil.copy(MODELS / "paddle" / "PP-OCRv4_mobile_rec" / "ppocr_keys_v1.txt", folder)
    else:
        shutil.copy(graph / "inference.yml", folder)
    (folder / "inference.json").write_text(text, encoding="utf-8")
    data = synthesise_file(pir.read_program(folder / "inference.json"))
    (folder / "inference.pdiparams").write_bytes(data)
    return read_source(folder)


@needs_models
@pytest.mark.parametrize("name", GRAPHS)
def test_synthesised_parameters_have_the_official_size(name: str, tmp_path: Path) -> None:
    assert synthesised(name, tmp_path).parameters.stat().st_size == GRAPHS[name][1]


@needs_models
@pytest.mark.parametrize("name", GRAPHS)
def test_light_route_is_repeatable_and_needs_no_paddle(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_ONNX_PADDLE_PYTHON", str(tmp_path / "no-such-python"))
    source = synthesised(name, tmp_path)
    assert convert_source(source, name).data == convert_source(source, name).data


@needs_models
@pytest.mark.export
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*EMBEDDED, *GRAPHS])
def test_both_routes_agree_with_paddle(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("paddle", reason="PaddlePaddle is not installed (dependency group `paddle`)")
    source = read_source(MODELS / "paddle" / name) if name in EMBEDDED else synthesised(name, tmp_path)
    candidates = {}
    for route in ("light", "paddle2onnx"):
        converted = convert_source(source, name, route=route)
        candidates[route] = tmp_path / f"{route}.onnx"
        candidates[route].write_bytes(converted.data)
    stage = converted.label.stage
    report = parity.compare(source, stage, candidates, parity.QUICK_GRID[stage], model=name)
    assert report.passed, report.to_markdown()
