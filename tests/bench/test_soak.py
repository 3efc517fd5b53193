import json
from pathlib import Path

import numpy as np
import pytest

from ocr_onnx_bench import soak
from tests.conftest import Run


def test_pages_are_drawn_alike_for_a_seed() -> None:
    first, again = list(soak.drawn_pages(5, seed=3)), list(soak.drawn_pages(5, seed=3))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({page.shape for page in first}) == 5
    assert all(page.min() == 0 and page.max() == 255 for page in first)


def test_resident_memory_sees_an_allocation() -> None:
    before = soak.resident_mib()
    ballast = np.ones(64 * 2**20, np.uint8)
    assert soak.resident_mib() - before > 50
    assert ballast[-1] == 1


def test_a_short_soak_writes_its_record(run: Run, tmp_path: Path) -> None:
    arguments = ("--pages", "4", "--settled-pages", "2", "--sample-pages", "1", "--record", "short")
    outcome = run("bench", "soak", *arguments, "--results", tmp_path)
    assert outcome.code == 0
    found = json.loads((tmp_path / "short.json").read_text())
    assert len(found["resident_mib"]) == 4
    assert found["lines_read"] > 0
    assert found["growth"] == pytest.approx(found["resident_mib"][3] / found["resident_mib"][1] - 1, abs=1e-4)
    assert "4 pages" in outcome.out
    assert str(tmp_path / "short.json") in outcome.out


def test_a_bad_record_name_is_refused(run: Run) -> None:
    outcome = run("bench", "soak", "--pages", "1", "--record", "../x")
    assert outcome.code == 2
    assert "is not a name" in outcome.err


@pytest.mark.parametrize("settled", ["3", "8"])
def test_no_sample_to_compare_with_is_refused(run: Run, settled: str) -> None:
    outcome = run("bench", "soak", "--pages", "4", "--sample-pages", "2", "--settled-pages", settled)
    assert outcome.code == 2
    assert "is no multiple of 2 up to 4" in outcome.err
