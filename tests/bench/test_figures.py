"""A figure without a record behind it is found, and nothing else is."""

import json
from pathlib import Path

import pytest

from ocr_onnx.errors import InputError
from ocr_onnx_bench import figures
from tests.conftest import Run

RECORD = {
    "kind": "soak",
    "pages": 2000,
    "share": 0.05296,
    "signed": -12.5,
    "ms": [10.04, 12.06],
    "data": {"name": "icdar2015_test", "whole": True},
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "memory-cpu.json").write_text(json.dumps(RECORD))
    return folder


def problems(text: str, results: Path) -> tuple[str, ...]:
    page = results.parent / "PAGE.md"
    page.write_text(text, encoding="utf-8")
    return figures.unbacked(page, results)


@pytest.mark.parametrize(
    "figure", ["2,000 pages", "0.0530", "0.05", "5.3 %", "5 %", "10.0 ms", "12.06", "ICDAR 2015", "-12.5"]
)
def test_a_figure_of_the_record_passes(results: Path, figure: str) -> None:
    assert problems(f"## Memory\nIt took {figure} (`memory-cpu`).", results) == ()
    assert problems(f"## Memory\n| what |\n|---|\n| {figure} `memory-cpu` |", results) == ()


@pytest.mark.parametrize("figure", ["2,001", "0.0531", "6 %", "10.1 ms", "12.07", "1 page"])
def test_a_figure_that_the_record_lacks_is_named(results: Path, figure: str) -> None:
    number = figure.split()[0]
    told = f"{number} is not in memory-cpu"
    assert problems(f"## Memory\nIt took {figure} (`memory-cpu`).", results) == (f"PAGE.md:2: {told}",)
    row = f"# Speed\n\n| what |\n|---|\n| {figure} `memory-cpu` |"
    assert problems(row, results) == (f"PAGE.md:5: {told}",)


def test_a_row_may_take_its_record_from_the_paragraph_above(results: Path) -> None:
    table = "| n |\n|---|\n| 10.0 |\n| 11 |\n"
    assert problems(f"## Speed\nAll from `memory-cpu`:\n\n{table}", results) == (
        "PAGE.md:7: 11 is not in memory-cpu",
    )
    assert problems(f"## Speed\n`memory-cpu`\n\n### Latency\n{table}", results) == (
        "PAGE.md:7: 10.0 names no record",
        "PAGE.md:8: 11 names no record",
    )


def test_a_record_that_is_not_there_backs_nothing(results: Path) -> None:
    assert problems("## Speed\n| n |\n|---|\n| 10.0 `speed-cpu` |", results) == (
        "PAGE.md:4: 10.0 names no record",
    )


@pytest.mark.parametrize("figure", ["7 ms", "7 MiB", "0.72", "7 %", "7 times", "7-fold", "7 s", "7×"])
def test_a_measured_figure_in_prose_needs_a_record(results: Path, figure: str) -> None:
    (told,) = problems(f"## Accuracy\nA line.\nIt took {figure} here.", results)
    assert told.startswith("PAGE.md:2: ")
    assert told.endswith("names no record")


@pytest.mark.parametrize(
    "text",
    [
        "## Accuracy\nDetection (ICDAR 2015 protocol, IoU over 0.5) of 3 models:",
        "## Install\n| driver |\n|---|\n| 580 |\n\nTakes 3 s.",
        "## Accuracy\n```\n7 ms\n| 8 |\n```\n### Where it differs\n7 ms",
        "## Speed\n![7 ms](plots/7.svg) of `det-7.5`\n\n| p50, 8 ms |\n|---|",
    ],
)
def test_what_is_no_measured_figure_is_left_alone(results: Path, text: str) -> None:
    assert problems(text, results) == ()


def test_published_figures_stand_in_the_reference(results: Path) -> None:
    text = "## Speed\nPublished, `reference.toml`:\n\n| model | Hmean |\n|---|---|\n| server | {} |"
    assert problems(text.format("82.69"), results) == ()
    assert problems(text.format("82.96"), results) == ("PAGE.md:6: 82.96 is not in reference.toml",)


def test_a_broken_record_is_named(results: Path) -> None:
    (results / "memory-cpu.json").write_text("{")
    with pytest.raises(InputError, match=r"memory-cpu\.json: can't be read as JSON"):
        problems("## Memory\n7 MiB `memory-cpu`", results)


def test_the_command_lists_them_and_fails(run: Run, results: Path) -> None:
    page = results.parent / "PAGE.md"
    page.write_text("## Memory\n2,001 pages, 7 MiB (`memory-cpu`)")
    outcome = run("bench", "report", "--check", page, "--results", results)
    assert outcome.code == 1
    assert outcome.err == "PAGE.md:2: 2,001 is not in memory-cpu\nPAGE.md:2: 7 is not in memory-cpu\n"
    page.write_text("## Memory\n2,000 pages (`memory-cpu`)")
    assert run("bench", "report", "--check", page, "--results", results).code == 0


def test_a_page_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", "report", "--check", tmp_path / "none.md")
    assert outcome.code == 1
    assert "none.md: can't be read" in outcome.err
