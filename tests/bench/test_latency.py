import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ocr_onnx import detect
from ocr_onnx.engine import Engine
from ocr_onnx.errors import ModelContractError
from ocr_onnx.options import DetOptions, ModelOptions
from ocr_onnx_bench import latency
from ocr_onnx_bench.cases import Case
from ocr_onnx_bench.latency_worker import PAGE_STAGES, End, Loaded, drawn_map, drawn_page, read_in_stages
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

[[profiles.tiny.maps]]
drawn = ["lines"]
sizes = [[320, 160, 8]]

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
    network, page, lines = found["cases"]
    assert (lines["case"]["map"], lines["models"], lines["nodes"]) == ([320, 160, 8], [], [])
    assert "320x160x8" in outcome.out
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


def test_nothing_measured_is_an_error_and_the_record_tells_why(run: Run, cases: Path, tmp_path: Path) -> None:
    outcome = run("bench", "latency", "--profile", "far", "--cases", cases, "--results", tmp_path, "-q")
    assert outcome.code == 1
    assert "has no case that runs here" in outcome.err
    found = json.loads((tmp_path / "latency-far.json").read_text())
    assert found["cases"] == []
    assert len(found["left_out"]) == 1
    assert found["left_out"][0].startswith("PP-OCRv4_mobile_rec 1x48x160, cuda:99, fp32, all threads: ")


def test_another_setting_has_no_published_figure_beside_it(run: Run, cases: Path, tmp_path: Path) -> None:
    command = ("bench", "latency", "--profile", "tiny", "--cases", cases, "--results", tmp_path, "-q")
    model = ("--model", "PP-OCRv4_mobile_rec", "--threads", "2", "--repetitions", "1", "--seconds", "0")
    assert run(*command, *model).code == 0
    [found] = json.loads((tmp_path / "latency-tiny.json").read_text())["cases"]
    assert (found["threads"], found["published_ms"]) == (2, None)


class FailingWorker:
    """Fails when it is asked to `fail_at`, else answers like a worker that takes 1 ms a run."""

    def __init__(self, fail_at: str) -> None:
        self.fail_at = fail_at

    def ask(self, request: str, count: int = 0) -> object:
        if request == self.fail_at:
            raise ModelContractError("/home/somebody/model.onnx", "failed on this shape", "give another")
        if request == "run":
            return [1.0] * count, {}
        return Loaded("CPU", 5.0, 2.0) if request == "load" else End((), 100.0, None)

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("fail_at", ["load", "run", "end"])
def test_a_case_that_fails_on_the_way_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, fail_at: str
) -> None:
    chosen = [Case("PP-OCRv4_mobile_rec", "cpu", "fp32", threads, shape=(1, 48, 160)) for threads in (1, 2)]
    monkeypatch.setattr(
        latency, "_Worker", lambda job: FailingWorker(fail_at if job.case.threads == 2 else "never")
    )
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.0)
    found = latency.make_record("p", chosen, options=ModelOptions(), effort=latency.Effort(20, 0.0))
    assert [one.case for one in found.cases] == chosen[:1]
    assert found.cases[0].samples_ms == (1.0,) * 20
    assert found.left_out == (f"{chosen[1]}: failed on this shape; give another",)


def test_steps_read_what_the_engine_reads() -> None:
    engine = Engine.load("mobile", threads=2)
    page = drawn_page(640, 320, 4)
    small = cv2.resize(page, None, fx=0.35, fy=0.35, interpolation=cv2.INTER_AREA)
    for picture, looks_twice in ((page, False), (small, True)):
        stages: dict[str, list[float]] = {}
        texts = read_in_stages(engine, cv2.imencode(".png", picture)[1].tobytes(), stages)
        result = engine.read(picture)
        assert result.provenance is not None
        assert (max(result.provenance.det_scale_xy) > 1.2) == looks_twice
        assert [text.text for text in texts] == [line.text for line in result.lines]
        assert len(texts) >= 4
        assert all(len(times) == 1 and times[0] >= 0 for times in stages.values())


def test_percentiles_are_interpolated() -> None:
    assert latency.percentile([4, 1, 3, 2], 0.5) == 2.5
    assert latency.percentile([1], 0.99) == 1


def test_drawn_maps_hold_the_lines_and_noise_that_is_no_text() -> None:
    wide, options = (2000, 3000), DetOptions()
    assert len(detect.postprocess(drawn_map("lines", 1120, 1600, 500), wide, options)) == 500
    noise = detect.postprocess(drawn_map("noise", 1120, 1600, 500), wide, options)
    assert len(noise) < 10
    assert noise.unseen > options.max_candidates
