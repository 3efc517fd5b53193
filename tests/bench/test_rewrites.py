import json
import shutil
from pathlib import Path

import pytest

from ocr_onnx import model_store
from ocr_onnx_bench import rewrites
from tests.conftest import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(model_store.embedded_dir() / "ppocr-mobile-v2-cls.onnx", tmp_path / "cls.onnx")
    return tmp_path


def test_a_model_against_itself_is_timed_in_turns_and_recorded(run: Run, folder: Path) -> None:
    outcome = run(
        "bench", "rewrites", folder, folder, "--rounds", "3", "--record", "same", "--results", folder
    )
    assert outcome.code == 0
    assert "cls                      6x48x192" in outcome.out
    found = json.loads((folder / "same.json").read_text())["comparisons"]
    assert [one["shape"] for one in found] == [[6, 48, 192], [1, 48, 192]]
    for one in found:
        assert len(one["stock_ms"]) == len(one["rewritten_ms"]) == 3
        assert sorted(one["stock_ms"])[1] == one["stock_median_ms"]
        assert one["ratio"] == pytest.approx(one["rewritten_median_ms"] / one["stock_median_ms"], rel=1e-3)
        assert one["stock_sha256"] == one["rewritten_sha256"]


def test_who_begins_changes_and_times_stay_with_their_owner() -> None:
    calls: list[str] = []
    times = rewrites.alternate(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert "".join(calls[2 * rewrites.WARM_UPS :]) == "abbaab"
    assert len(times) == 3


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (("--rounds", "0"), "--rounds"),
        (("--model", "other"), "is not there"),
        (("--record", "../x"), "is not a name"),
    ],
)
def test_bad_input_is_said(run: Run, folder: Path, changes: tuple[str, str], problem: str) -> None:
    outcome = run("bench", "rewrites", folder, folder, *changes)
    assert outcome.code in (1, 2)
    assert problem in outcome.err


def test_a_folder_without_models_is_one_line(run: Run, folder: Path) -> None:
    outcome = run("bench", "rewrites", folder / "empty", folder)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "holds no .onnx file" in outcome.err
