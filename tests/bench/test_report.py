"""Small records written by hand come out as tables and plots."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from ocr_onnx_bench import records, report
from tests.conftest import Run

ENVIRONMENT = {"cpu": "Test CPU", "cores": 3, "commit": "abcdef0123"}


def accuracy(width: str = "tight") -> dict[str, Any]:
    ratios = {"precision": 0.51111, "recall": 0.52222, "hmean": 0.53333}
    texts = {"lines": 1234, "line_accuracy": 0.61111, "character_accuracy": 0.62222}
    return {
        "kind": "accuracy",
        "data": {"name": "drawn", "images": 7, "images_in_set": 7},
        "figures": {
            "detection": ratios,
            "end_to_end_normalised": None,
            "recognition_exact": texts,
            "recognition_normalised": texts,
        },
        "options": {"det": {"limit_type": "max", "limit_side_px": 960}, "rec": {"width": width}},
        "model_set": "mobile",
        "provenance": {"models": [["det", "ppocrv4-mobile-det@12"], ["rec", "ppocrv4-mobile-rec@34"]]},
        "environment": ENVIRONMENT,
    }


def sides(images: int = 7, hmean: float = 0.55556) -> dict[str, Any]:
    def size(limit_type: str, side_px: int, ms: float) -> dict[str, Any]:
        times = {"median_ms": ms, "mean_ms": ms + 10.06, "paired_ratio": ms / 400}
        ratios = {"precision": 0.56666, "recall": 0.57777, "hmean": hmean}
        return {
            "limit_type": limit_type,
            "side_px": side_px,
            "detection": ratios,
            "detection_time": times,
            "end_to_end_normalised": ratios,
            "character_accuracy": 0.58888,
            "read_time": times,
        }

    return {
        "kind": "sides",
        "data": {"name": "drawn", "images": images, "images_in_set": 7},
        "threads": 2,
        "sizes": [size("max", 640, 100.0), size("max", 960, 100.0), size("auto", 1600, 400.0)],
        "model_set": "mobile",
        "environment": ENVIRONMENT,
    }


def sides_without_reading() -> dict[str, Any]:
    record = sides()
    unread = {"end_to_end_normalised": None, "character_accuracy": None, "read_time": None}
    return {
        **record,
        "data": {**record["data"], "name": "scenes"},
        "sizes": [{**size, **unread} for size in record["sizes"]],
    }


def scaling() -> dict[str, Any]:
    def point(x: float, threads: int) -> dict[str, Any]:
        return {
            "x": x,
            "work": {"threads": threads},
            "median_ms": 101.25 * x,
            "det_ms": 50.0,
            "rec_ms": 40.0,
            "outside_ms": x,
            "pages_per_s": 1.5 * x,
            "loaded_mib": 100.0,
            "peak_mib": 123.0 + x,
        }

    fit = {
        "of": "time",
        "threads": 0,
        "exponent": 0.987,
        "per_unit": 101.25,
        "first_x": 1,
        "last_x": 4,
        "verdict": "is linear",
    }
    axes = [
        {
            "axis": name,
            "unit": f"{name} unit",
            "points": [point(x, threads) for threads in (0, 1) for x in (1, 2, 4)],
            "growth": [fit],
        }
        for name in ("area", "lines", "pages", "workers")
    ]
    return {"kind": "scaling", "rule": "a rule", "axes": axes, "environment": ENVIRONMENT}


def soak() -> dict[str, Any]:
    return {
        "kind": "soak",
        "pages": 40,
        "workers": 2,
        "sample_pages": 10,
        "settled_pages": 20,
        "resident_mib": [200.0, 250.0, 270.0, 275.0],
        "environment": ENVIRONMENT,
    }


def latency() -> dict[str, Any]:
    case: dict[str, Any] = {
        "case": {
            "model": "PP-OCRv4_server_det",
            "device": "cpu",
            "precision": "fp32",
            "threads": 0,
            "shape": [1, 704, 960],
            "page": None,
        },
        "weights": "synthesised",
        "threads": 8,
        "load_ms": 234.5,
        "first_ms": 1600.06,
        "peak_rss_mib": 789.1,
        "p50_ms": 1357.94,
        "p90_ms": 1400.0,
        "p99_ms": 1500.0,
    }
    whole = {"model": "mobile", "shape": None, "page": [640, 480, 9]}
    page = {**case, "case": {**case["case"], **whole}, "peak_rss_mib": None}
    return {"kind": "latency", "profile": "xeon-8t", "cases": [case, page], "environment": ENVIRONMENT}


def peers() -> dict[str, Any]:
    engine = {
        "name": "other",
        "weights": "own",
        "median_ms": 456.78,
        "median_cpu_ms": 567.89,
        "peak_rss_mib": 678.9,
        "lines": 321,
        "accuracy": {"hmean": 0.45678, "end_to_end_f1": 0.34567},
        "baseline_share": {"time": 0.777},
        "same_regions": {
            "regions": 1234,
            "character_accuracy": 0.81111,
            "baseline_character_accuracy": 0.82222,
        },
    }
    return {
        "kind": "peers",
        "data": "drawn",
        "pages": 7,
        "threads": 2,
        "baseline": "ocr-onnx",
        "engines": [engine, {**engine, "name": "ocr-onnx", "accuracy": None, "baseline_share": None}],
        "environment": ENVIRONMENT,
    }


def throughput() -> dict[str, Any]:
    ratio = {"median": 1.624, "lowest": 1.5, "highest": 1.7}
    layout = {
        "engine": "ours",
        "layout": {"processes": 1, "threads": 2, "workers": 2},
        "pages_per_s": 7.654,
        "cpu_ms": 234.56,
        "peak_rss_mib": 345.6,
        "best": True,
        "over_one_thread": ratio,
        "baseline_over": None,
    }
    alone = {**layout, "layout": {"processes": 1, "threads": 1, "workers": None}, "best": False}
    return {
        "kind": "throughput",
        "data": "drawn",
        "pages_per_pass": 20,
        "threads": 2,
        "baseline": "ours",
        "layouts": [layout, alone],
        "environment": ENVIRONMENT,
    }


def gpu(*, dry_run: bool = True) -> dict[str, Any]:
    outcome = {
        "figures": [{"name": "det first run median", "value": 12.3456789, "unit": "ms"}],
        "series": [],
        "ran": [],
        "notes": [],
        "problem": "",
    }
    good = {"name": "stalls", "state": "ok", "seconds": 1.0, "error": "", "outcome": outcome}
    bad = {**good, "name": "soak", "state": "failed", "error": "out of memory"}
    return {
        "kind": "gpu",
        "device": "cpu" if dry_run else "cuda:0",
        "dry_run": dry_run,
        "quick": dry_run,
        "parts": [good, bad],
        "environment": {**ENVIRONMENT, "gpu": "Test GPU"},
    }


def rewrites() -> dict[str, Any]:
    case = {
        "model": "net",
        "shape": [1, 48, 320],
        "stock_median_ms": 20.0,
        "rewritten_median_ms": 15.0,
        "paired_ratio": 0.754,
    }
    return {"kind": "rewrites", "threads": 0, "comparisons": [case], "environment": ENVIRONMENT}


def load() -> dict[str, Any]:
    waits = {"p50_ms": 1001.4, "p90_ms": 1002.4, "p99_ms": 1003.4, "max_ms": 1004.4}
    step = {
        "clients": 4,
        "seconds": 60.5,
        "requests": 1234,
        "pages": 1200,
        "busy": 30,
        "errors": [["InputError", 3], ["ServerError 504", 1]],
        "other": 2,
        "pages_per_s": 2.345,
        "waits": waits,
        "resident_mib": [400.0, 410.0],
        "growth": 0.025,
        "engine_pages_per_s": 2.4,
        "over_engine": 0.977,
    }
    last = {**step, "clients": 64, "errors": [], "waits": None, "resident_mib": [], "growth": None}
    return {
        "kind": "load",
        "data": "drawn",
        "files": 5,
        "pages": 7,
        "seconds": 60,
        "steps": [step, last],
        "environment": ENVIRONMENT,
    }


ALL = {
    "accuracy-drawn": accuracy(),
    "latency-xeon-8t": latency(),
    "peers-drawn": peers(),
    "rewrites-cpu": rewrites(),
    "scaling-cpu": scaling(),
    "sides-drawn": sides(),
    "sides-scenes": sides_without_reading(),
    "soak-mobile-cpu": soak(),
    "gpu-dry": gpu(),
    "load-drawn": load(),
    "throughput-drawn": throughput(),
}


def folder_of(tmp_path: Path, found: dict[str, Any]) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for name, record in found.items():
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_every_figure_appears(tmp_path: Path) -> None:
    page = report.markdown(records.read_all(folder_of(tmp_path, ALL)))
    for row in (
        "| PP-OCRv4_server_det | 82.69 (not comparable) | – | 2,434.0 | 1,357.9 | 83.4 | – | 109.0 | synth",
        "| PP-OCRv4_mobile_det | 77.79 (not comparable) | drawn 0.5333 | 120.2 | – | 10.7 | – | 4.7 | – |",
        "| PP-OCRv4_mobile_rec | 78.20 (not comparable) | drawn 0.6111 | 46.8 | – | 8.0 | – | 10.6 | – |",
        "| PP-OCRv4_server_det | 1x704x960 | synthesised | cpu | fp32 | 8 | 234 | 1,600.1 | 1,357.9 |",
        "| mobile | page 640x480, 9 lines | synthesised | cpu | fp32 | 8 | 234 | 1,600.1 | 1,357.9 |",
        "| drawn | 7 of 7 | mobile | long side 960 | 0.5111 | 0.5222 | 0.5333 | – | `accuracy-drawn` |",
        "| drawn | 1,234 | mobile | tight | 0.6111 | 0.6111 | 0.6222 | `accuracy-drawn` |",
        "| 640 | 0.5667 | 0.5778 | 0.5556 | 100.0 | 110.1 | 0.25 | 0.5556 | 0.5889 | 100.0 | 110.1 | 0.25 |",
        "| auto | 0.5667 | 0.5778 | 0.5556 | 400.0 | 410.1 | 1.00 | – | – | – | – | – |",
        "| other | own | 456.8 | 567.9 | 679 | 321 | 0.4568 | 0.3457 | 1,234: 0.8111 / 0.8222 | 0.78 |",
        "| ocr-onnx | own | 456.8 | 567.9 | 679 | 321 | – | – | – |",
        "| ours | 1x2 stream 2 | 7.65 | 234.6 | 346 | 1.62 | – | yes |",
        "| ours | 1x1 | 7.65 | 234.6 | 346 | 1.62 | – |  |",
        "| net | 1x48x320 | 20.0 | 15.0 | 0.75 |",
        "| 4 | 1,234 | 30 | 4 | 2 | 2.35 | 1,001 | 1,002 | 1,003 | 1,004 | 410 | +2.5% |",
        "| 64 | 1,234 | 30 | 0 | 2 | 2.35 | – | – | – | – | – | – |",
        "| area unit | time | is linear | 0.99 | 1 | 4 | 101 ms |",
        "| stalls | det first run median | 12.3457 | ms |",
        "| 2 | 1 | 202.5 | 50.0 | 40.0 | 2.0 | 3.0 | 100 | 125 |",
    ):
        assert row in page
    assert "drawn: 7 of 7 images, models mobile, 2 threads, Test CPU, 3 cores" in page
    assert "250 MiB after page 20, 275 MiB at the end (+10.0%)" in page
    assert "Test CPU, 3 cores, commit abcdef0" in page
    assert "no GPU: a dry run of the same code; Test CPU" in page
    assert "- soak failed: out of memory" in page
    assert "5 files of 7 pages, 60 s for each number of clients, Test CPU" in page
    assert "## Left out" not in page


def test_a_gpu_is_named_where_one_was_measured(tmp_path: Path) -> None:
    page = report.markdown(records.read_all(folder_of(tmp_path, {"gpu-a": gpu(dry_run=False)})))
    assert "## GPU suite on cuda:0\n\nTest GPU; Test CPU" in page
    assert "dry run" not in page


def test_plots_are_written_and_shown_and_named(tmp_path: Path) -> None:
    page, *plots = report.write(records.read_all(folder_of(tmp_path, ALL)), tmp_path / "out")
    assert {plot.stem for plot in plots} == {
        "accuracy-latency",
        "accuracy-sides",
        "growth",
        "latency-size",
        "memory-pages",
        "throughput-workers",
    }
    for plot in plots:
        assert ET.parse(plot).getroot().tag.endswith("svg")
        assert f"](plots/{plot.name})" in page.read_text(encoding="utf-8")


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    results = folder_of(tmp_path, ALL)
    first, again = (report.write(records.read_all(results), tmp_path / name) for name in ("first", "again"))
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_plot_of_sides_takes_the_record_with_most_pages_of_each_set(tmp_path: Path) -> None:
    few, whole = sides(images=3, hmean=0.9), sides()
    both = folder_of(tmp_path, {"sides-a-few": few, "sides-b-whole": whole})
    _, *plots = report.write(records.read_all(both), tmp_path / "both")
    (both / "sides-a-few.json").unlink()
    _, *alone = report.write(records.read_all(both), tmp_path / "alone")
    assert [plot.read_bytes() for plot in plots] == [plot.read_bytes() for plot in alone]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("{", "x.json: can't be read as JSON"),
        ("[]", "x.json: is of the kind None, which the report does not know"),
        ('{"kind": "weather"}', "x.json: is of the kind 'weather', which the report does not know"),
        ('{"kind": "soak"}', "x.json: is no record of the kind 'soak'"),
    ],
)
def test_a_record_that_cant_be_used_is_named_and_the_others_are(
    run: Run, tmp_path: Path, broken: str, told: str
) -> None:
    results = folder_of(tmp_path, {"accuracy-drawn": accuracy()})
    (results / "x.json").write_text(broken)
    outcome = run("bench", "report", "--results", results, "--out", tmp_path)
    page = (tmp_path / "REPORT.md").read_text(encoding="utf-8")
    assert outcome.code == 0
    assert told in outcome.err
    assert told in page
    assert "`accuracy-drawn`" in page
    assert "no record of the kind `peers`" in page


def test_nothing_usable_is_an_error(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", "report", "--results", folder_of(tmp_path, {}), "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "holds no record" in outcome.err
    assert not (tmp_path / "out").exists()


def test_the_committed_page_is_that_of_the_committed_records() -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    page = (benchmarks / "REPORT.md").read_text(encoding="utf-8")
    remedy = "run `uv run ocr-onnx bench report`"
    assert page == report.markdown(records.read_all(benchmarks / "results")), remedy
