"""Growth against power laws that are known, and one short run over all axes."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ocr_onnx import recognize
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OptionError
from ocr_onnx_bench import peer_worker, scaling
from ocr_onnx_bench.scaling import Axis, Sample, Work
from tests.conftest import Run

XS = (1, 2, 5, 10, 20, 50, 100)


def law(exponent: float, factor: float = 3.0, base: float = 0.0) -> list[float]:
    return [base + factor * x**exponent for x in XS]


@pytest.mark.parametrize(
    ("exponent", "verdict"),
    [
        (-0.5, "does not grow"),
        (0.0, "does not grow"),
        (0.5, "grows more slowly than linearly"),
        (0.91, "is linear"),
        (1.0, "is linear"),
        (1.09, "is linear"),
        (2.0, "grows faster than linearly"),
    ],
)
def test_a_power_law_is_found(exponent: float, verdict: str) -> None:
    found = scaling.growth("time", XS, law(exponent))
    assert found is not None
    assert found.exponent == pytest.approx(exponent)
    assert found.verdict == verdict
    assert (found.first_x, found.last_x, found.points) == (10, 100, 4)


def test_what_every_page_costs_anyway_does_not_hide_the_growth() -> None:
    found = scaling.growth("time", XS, law(1.0, base=5.0))
    assert found is not None
    assert found.verdict == "is linear"
    assert found.per_unit == pytest.approx(3.0)


def test_scattered_figures_are_fitted_too() -> None:
    chance = np.random.default_rng(1)
    ys = [y * factor for y, factor in zip(law(1.0), chance.uniform(0.95, 1.05, len(XS)), strict=True)]
    found = scaling.growth("time", XS, ys)
    assert found is not None
    assert found.exponent == pytest.approx(1.0, abs=0.05)


def test_few_points_in_the_last_decade_take_all() -> None:
    found = scaling.growth("memory", (1, 10, 1000), (2, 20, 2000))
    assert found is not None
    assert (found.first_x, found.points) == (1, 3)


@pytest.mark.parametrize(
    ("xs", "ys"), [((1, 2), (1, 2)), ((2, 2, 2), (1, 2, 3)), ((1, 2, 3), (0, 1, 2)), ((), ())]
)
def test_too_few_points_have_no_growth(xs: Sequence[float], ys: Sequence[float]) -> None:
    assert scaling.growth("time", xs, ys) is None


def test_the_axes_span_what_they_promise() -> None:
    spans = {
        axis.name: [scaling.x_of(axis.name, axis.works[at]) for at in (0, -1)] for axis in scaling.axes()
    }
    assert spans == {"area": [0.1, 40], "lines": [1, 500], "pages": [1, 2000], "workers": [1, 8]}


def test_a_page_is_drawn_alike_and_holds_its_lines() -> None:
    work = Work(0.25, 20, 7, pages=1, workers=1, threads=0)
    page = scaling.drawn_page(work)
    assert np.array_equal(page, scaling.drawn_page(work))
    assert page.shape == (500, 500, 3)
    rows = page.reshape(10, 50, 2, 250, 3).min(axis=(1, 3, 4))
    assert (rows.ravel() < 128).sum() == 7


def engine() -> Engine:
    """Return an engine that finds nothing, and so reads nothing."""

    def rec(lines: object, widths: object) -> recognize.CtcSteps:
        raise AssertionError((lines, widths))

    return Engine(det=lambda pages: np.zeros(pages.shape[:3], np.float32), rec=rec, charset=("", "a"))


def test_the_parts_of_the_time_are_told_apart() -> None:
    work = Work(0.02, 5, 1, pages=1, workers=1, threads=0)
    sample = scaling.timed_run(engine(), work, scaling.drawn_page(work))
    assert 0 < sample.det_ms < sample.total_ms
    assert (sample.rec_ms, sample.lines) == (0, 0)


def test_points_are_measured_in_turns() -> None:
    asked: list[int] = []

    def load(threads: int) -> Engine:
        asked.append(threads)
        return engine()

    works = tuple(Work(0.01, 5, 1, pages=1, workers=1, threads=threads) for threads in (1, 2))
    samples = scaling.samples_of(Axis("workers", "workers", works), load, repeats=3)
    assert asked == [1, 1, 2, 1, 2, 1, 2]
    assert [len(taken) for taken in samples] == [3, 3]


def test_runs_side_by_side_count_once() -> None:
    assert peer_worker.covered_s([]) == 0
    assert peer_worker.covered_s([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4


def test_runs_in_lanes_are_told_as_rec() -> None:
    mobile = Engine.load("mobile", threads=2)
    work = Work(0.3, 6, 6, pages=1, workers=1, threads=0)
    page = scaling.drawn_page(work)
    sample = scaling.timed_run(mobile, work, page)
    assert mobile.rec_lanes is not None
    assert 0 < sample.rec_ms < sample.total_ms - sample.det_ms
    assert sample.lines >= 6


def test_a_point_sums_its_samples_up() -> None:
    work = Work(1, 1, 1, pages=4, workers=1, threads=0)
    samples = [Sample(100, 50, 20, 4), Sample(300, 60, 30, 4), Sample(200, 40, 90, 4)]
    found = scaling.point(4, work, samples, (100, 150))
    assert (found.median_ms, found.det_ms, found.rec_ms, found.outside_ms) == (200, 50, 30, 70)
    assert found.pages_per_s == 20


def test_memory_is_fitted_above_the_loaded_engine() -> None:
    works = [Work(x, 1, 1, pages=1, workers=1, threads=0) for x in (1, 2, 4)]
    points = [
        scaling.point(work.megapixels, work, [Sample(10, 2, 3, 1)], (100, 100 + 7 * work.megapixels))
        for work in works
    ]
    found = {fit.of: fit for fit in scaling.growths("area", points)}
    assert found["memory"].verdict == "is linear"
    assert found["memory"].per_unit == pytest.approx(7)
    assert found["time"].verdict == found["time outside the networks"].verdict == "does not grow"


def _killed(work: Work, model_set: str) -> tuple[float, float]:  # noqa: ARG001
    os._exit(9)


def test_a_killed_process_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "peak_memory", _killed)
    axis = Axis("area", "megapixels", (Work(0.5, 5, 1, pages=1, workers=1, threads=0),))
    left_out: list[str] = []
    assert scaling.peaks(axis, "mobile", left_out) == [(None, None)]
    assert left_out == ["area: memory at 0.5 megapixels, whose process was killed"]


def test_a_short_run_writes_its_record(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [Work(0.02, 5, lines, pages=1, workers=1, threads=0) for lines in (1, 2, 5)]
    axes = (Axis("lines", "lines per page", tuple(works)), Axis("workers", "workers", tuple(works[:1])))
    monkeypatch.setattr(scaling, "axes", lambda **_: axes)
    outcome = run("bench", "scaling", "--repeats", "1", "--results", tmp_path)
    assert outcome.code == 0
    found = json.loads((tmp_path / "scaling-cpu.json").read_text())
    lines = found["axes"][0]
    assert [point["x"] for point in lines["points"]] == [1, 2, 5]
    assert {fit["of"] for fit in lines["growth"]} == {"time", "memory"}
    assert all(point["peak_mib"] > point["loaded_mib"] > 0 for point in lines["points"])
    assert "lines: time" in outcome.out
    assert "left out: workers: growth, as fewer than 3 points were measured" in outcome.out


def test_bounds_cut_the_axes() -> None:
    cut = scaling.axes(max_megapixels=1, max_lines=5, max_pages=50, max_workers=2)
    assert [len(axis.works) for axis in cut] == [4, 3, 3, 4]


def test_an_axis_without_a_point_is_refused() -> None:
    axis = Axis("area", "megapixels", ())
    with pytest.raises(OptionError, match="has no point"):
        scaling.make_record([axis], repeats=1)
