import json
from pathlib import Path

import numpy as np
import pytest

from ocr_onnx_bench import soak


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


def test_a_short_soak_writes_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--pages", "4", "--settled-pages", "2", "--sample-pages", "1", "--record", "short"]
    assert soak.main([*arguments, "--results", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "short.json").read_text())
    assert len(found["resident_mib"]) == 4
    assert found["lines_read"] > 0
    assert found["growth"] == pytest.approx(found["resident_mib"][3] / found["resident_mib"][1] - 1, abs=1e-4)
    assert "4 pages" in capsys.readouterr().out


def test_a_bad_record_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--pages", "1", "--record", "../x"]) == 1
    assert "is not a name" in capsys.readouterr().err
