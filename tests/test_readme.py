"""The README's Python runs as it stands, and its figures stand in a record."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ocr_onnx import Engine
from ocr_onnx_bench import figures
from tests.stub_server import Answer, pages_of, serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = ROOT / "tests" / "data" / "boarding-pass.png"


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    shutil.copy(DEMO, "page.png")
    shutil.copy(DEMO, "scans")
    for name in ("line1.png", "line2.png"):
        with Image.open(DEMO) as page:
            page.crop((66, 249, 264, 303)).save(name)
    names: dict[str, object] = {}
    engine = Engine.load("mobile")
    with serving() as stub:
        stub.answer = lambda asked: Answer(body=pages_of(engine.read(asked.file)))
        code = "\n".join(blocks).replace("http://127.0.0.1:8080", stub.url)
        exec(code, names)  # the README is ours
    assert "BOARDING" in capsys.readouterr().out
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_every_figure_stands_in_the_record_it_names() -> None:
    assert figures.unbacked(ROOT / "README.md", ROOT / "benchmarks" / "results") == ()


def test_the_accuracy_stands_in_its_record() -> None:
    """Every figure in a row that ends with a record's name is one of that record's."""
    rows = re.findall(r"^(\|.*)\| `(accuracy-[\w-]+)` \|$", README, re.MULTILINE)
    assert len(rows) >= 10
    for line, name in rows:
        record = (ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8")
        stages = json.loads(record)["figures"]
        known = {f"{value:.4f}" for stage in stages.values() if stage for value in stage.values()}
        for figure in re.findall(r"\b0\.\d{4}\b", line):
            assert figure in known, (line, figure)


def test_the_memory_stands_in_its_record() -> None:
    record = json.loads(
        (ROOT / "benchmarks" / "results" / "soak-mobile-cpu.json").read_text(encoding="utf-8")
    )
    settled = record["resident_mib"][record["settled_pages"] // record["sample_pages"] - 1]
    end = record["resident_mib"][-1]
    told = re.search(r"([\d,]+) drawn pages .*: (\d+) MiB after page (\d+), (\d+) MiB at the end", README)
    assert told is not None
    read = [int(figure.replace(",", "")) for figure in told.groups()]
    assert read == [record["pages"], round(settled), record["settled_pages"], round(end)]
