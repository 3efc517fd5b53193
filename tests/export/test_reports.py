"""The command behind `export/reports/`: its files, its rewrites step by step, its tables, its errors."""

import json
import shutil
import warnings
from pathlib import Path

import onnx
import pytest

from ocr_onnx.errors import ModelMissingError
from ocr_onnx_export import reports
from ocr_onnx_export.finish import to_bytes
from ocr_onnx_export.report import Comparison, Facts, Report
from ocr_onnx_export.reports import SUBJECTS, Subject
from ocr_onnx_export.rewrite import FOR_STAGE, FOR_TARGET, passes_for, rewrite
from ocr_onnx_export.routes import convert_source
from ocr_onnx_export.sources import Source, read_source
from tests.export.pir_programs import CHARACTERS, tiny_rec

PASSES = passes_for("cpu", "rec")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = tiny_rec().save(tmp_path / "tiny")
    (folder / "keys.txt").write_text("\n".join(CHARACTERS), encoding="utf-8")
    return read_source(folder)


def test_every_rewrite_of_every_list_has_a_name_of_its_own() -> None:
    for stage in FOR_STAGE:
        for target in FOR_TARGET:
            names = [reports.pass_name(one) for one in passes_for(target, stage)]
            assert len(set(names)) == len(names)
    assert reports.pass_name(FOR_STAGE["rec"][0]) == "image_input"


def test_steps_end_with_what_an_export_makes_and_leave_out_the_idle(source: Source) -> None:
    plain = convert_source(source, "tiny").data
    steps = reports.steps(plain, PASSES)
    assert list(steps)[-2:] == ["image_input", "ctc_output"]
    assert steps["ctc_output"] == to_bytes(rewrite(onnx.load_from_string(plain), PASSES))
    assert "fuse_hard_swish" not in steps
    assert len({*steps.values()}) == len(steps)


def test_rewrites_idle_on_one_file_are_shown_on_the_other(source: Source) -> None:
    plain = convert_source(source, "tiny").data
    light = to_bytes(rewrite(onnx.load_from_string(plain), PASSES))
    files = reports.files_of(light, plain, PASSES)
    assert list(files)[:2] == ["light", "paddle2onnx"]
    assert "+ ctc_output" not in files
    assert files["paddle2onnx + ctc_output"] == files["paddle2onnx + all"] == light


def test_synthesised_subject_takes_its_number_of_classes_and_dictionary(tmp_path: Path) -> None:
    models, folder = tmp_path / "models", tmp_path / "made"
    tiny_rec(classes=123).save(models / "graphs" / "big")
    keys = models / "paddle" / "PP-OCRv4_mobile_rec" / "ppocr_keys_v1.txt"
    keys.parent.mkdir(parents=True)
    keys.write_text("a\nb\n", encoding="utf-8")
    folder.mkdir()
    source = reports.open_subject(Subject("small", "big", (4, 123)), models, folder)
    assert source.dictionary == CHARACTERS
    assert convert_source(source, "small").classes == 4


def test_a_missing_model_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for subject in SUBJECTS:
        with pytest.raises(ModelMissingError, match="is not there"):
            reports.open_subject(subject, tmp_path, tmp_path)
    assert reports.main(["--models", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "PP-OCRv4_mobile_det" in captured.err
    assert not (tmp_path / "out").exists()


def comparison(candidate: str, agreement: float = 1.0, variety: float = 7.0) -> Comparison:
    return Comparison(candidate, "text", (2, 48, 320), 2e-5, 1e-6, agreement, 80, variety, 10.0, 5.0)


def test_tables_say_what_an_agreement_is_worth() -> None:
    facts: Facts = {"file": "a.onnx", "size_bytes": 10, "sha256": "0", "time_ms": 4.0, "time_to_first": 0.75}
    report = Report(
        "tiny",
        "rec",
        {},
        {"light": facts, "+ ctc_output": facts},
        {},
        (comparison("light"), comparison("+ ctc_output", 1 - 1e-9)),
        answers={"best classes": 80, "of them different": 7},
        idle=("fuse_gate",),
    )
    page = report.to_markdown()
    assert "NOT equal" in page
    assert "nothing to do here: fuse_gate." in page
    assert "Paddle's answers: 80 best classes, 7 of them different." in page
    assert "| + ctc_output |  | 2.0e-05 | 99.9999 % |  | 4.0 | 0.75 | 10 |" in page
    assert "| text | 2x48x320 | 7 classes in 80 | 2.0e-05 | 99.9999 % | 10 |" in page
    assert json.loads(report.to_json())["comparisons"][0]["variety"] == 7


def test_det_tables_give_the_share_of_text() -> None:
    report = Report("tiny", "det", {}, {}, {}, (comparison("light", variety=0.25),))
    assert "| 25.0 % text of 80 px |" in report.to_markdown()


@pytest.mark.export
@pytest.mark.filterwarnings("ignore")
def test_command_reports_on_both_routes_and_every_rewrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle = pytest.importorskip(
            "paddle", reason="PaddlePaddle is not installed (dependency group `paddle`)"
        )
    models, out = tmp_path / "models", tmp_path / "out"
    graph = models / "graphs" / "tiny"
    nn = paddle.nn
    net = nn.Sequential(
        nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU(), nn.Conv2D(8, 1, 1), nn.Sigmoid()
    )
    net.eval()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(net, str(graph / "inference"), spec)
    (graph / "inference.yml").write_text("PostProcess: {name: DBPostProcess}\n", encoding="utf-8")
    shutil.copytree(graph, models / "paddle" / "weighted")
    grid = ((1, 32, 64), (2, 64, 32))
    monkeypatch.setattr(
        reports, "SUBJECTS", (Subject("made", "tiny", grid=grid), Subject("weighted", grid=grid))
    )
    assert reports.main(["--models", str(models), "--out", str(out), "--only", "made"]) == 0
    assert {path.name for path in out.iterdir()} == {"made.json", "made.md"}
    written = json.loads((out / "made.json").read_text(encoding="utf-8"))
    assert written["passed"]
    assert {"light", "paddle2onnx", "+ image_input", "paddle2onnx + all"} <= written["candidates"].keys()
    assert len(written["comparisons"]) == 2 * len(grid) * len(written["candidates"])
    assert "fuse_gate" in written["idle"]
    assert 0.02 < written["answers"]["of them text (share)"] < 0.98
