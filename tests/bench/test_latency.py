import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ocr_onnx.engine import Engine
from ocr_onnx_bench import latency
from ocr_onnx_bench.latency_worker import PAGE_STAGES, drawn_page, read_in_stages
from tests.conftest import Run

CASES = """
[[profiles.tiny.matrix]]
models = ["PP-OCRv4_mobile_rec", "Nobody_rec"]
devices = ["cpu"]
precisions = ["fp32"]
threads = [1]
shapes = [[1, 48, 160]]
reference = "cpu_ms"

[[profiles.tiny.pages]]
models = ["mobile"]
devices = ["cpu"]
threads = [1]
sizes = [[320, 160, 2]]

[[profiles.far.matrix]]
models = ["PP-OCRv4_mobile_rec"]
devices = ["cuda:99"]
precisions = ["fp32"]
threads = [0]
shapes = [[1, 48, 160]]
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    file = tmp_path / "cases.toml"
    file.write_text(CASES, encoding="utf-8")
    return file


def test_cases_are_measured_and_recorded_and_a_missing_model_is_named(
    run: Run, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCR_ONNX_PADDLE_MODELS", raising=False)
    command = ("bench", "latency", "--profile", "tiny", "--cases", cases, "--results", tmp_path)
    outcome = run(*command, "--repetitions", "20", "--seconds", "0")
    assert outcome.code == 0
    found = json.loads((tmp_path / "latency-tiny.json").read_text())
    network, page = found["cases"]
    assert (network["weights"], network["threads"], network["published_ms"]) == ("real", 1, 46.7868)
    for one in (network, page):
        assert len(one["samples_ms"]) >= 20
        for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)):
            assert one[name] == pytest.approx(np.quantile(one["samples_ms"], share), abs=2e-3)
        assert one["provider"] == "CPUExecutionProvider"
        assert one["first_ms"] > 0 < one["load_ms"]
        assert one["peak_rss_mib"] is None or one["peak_rss_mib"] > 50
    assert dict(network["nodes"])["CPUExecutionProvider"] > 50
    assert [stage for stage, _ in page["stages_ms"]] == list(PAGE_STAGES)
    assert [line for line in found["left_out"] if line.startswith("Nobody_rec 1x48x160, cpu")]
    assert "left out: Nobody_rec" in outcome.out


def test_nothing_measured_is_an_error_with_the_cause(run: Run, cases: Path, tmp_path: Path) -> None:
    outcome = run("bench", "latency", "--profile", "far", "--cases", cases, "--results", tmp_path, "-q")
    assert outcome.code == 1
    assert "has no case that runs here" in outcome.err
    assert "cuda:99" in outcome.err
    assert not list(tmp_path.glob("latency*.json"))


def test_steps_read_what_the_engine_reads() -> None:
    engine = Engine.load("mobile", threads=2)
    page = drawn_page(640, 320, 4)
    texts = read_in_stages(engine, cv2.imencode(".png", page)[1].tobytes(), {})
    assert [text.text for text in texts] == [line.text for line in engine.read(page).lines]
    assert len(texts) >= 4


def test_percentiles_are_interpolated() -> None:
    assert latency.percentile([4, 1, 3, 2], 0.5) == 2.5
    assert latency.percentile([1], 0.99) == 1
