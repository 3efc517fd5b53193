"""The three stages over sets drawn here, read by readers that know, miss or garble the truth."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from ocr_onnx.crop import as_points, as_quad
from ocr_onnx.data import Detections, F32Array, ImageBgr, PageResult, TextLine
from ocr_onnx.engine import Engine
from ocr_onnx.options import DetOptions, Options
from ocr_onnx.recognize import RecognizedLine
from ocr_onnx_bench import accuracy, labels
from ocr_onnx_bench.accuracy import Ratios, measure

WORDS = {"a.png": ["Exit", "###"], "b.png": ["文字"]}
GRAY_OF = {"Exit": 40, "###": 80, "文字": 120}
TEXT_OF = {gray: text for text, gray in GRAY_OF.items()}


def box(row: int) -> list[list[int]]:
    top = 10 + 30 * row
    return [[10, top], [60, top], [60, top + 20], [10, top + 20]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set in which every word is a box filled with a gray of its own."""
    lines = []
    (tmp_path / "images").mkdir()
    for name, words in WORDS.items():
        page = np.full((100, 80, 3), 255, np.uint8)
        for row, word in enumerate(words):
            (left, top), _, (right, bottom), _ = box(row)
            page[top:bottom, left:right] = GRAY_OF[word]
        cv2.imwrite(str(tmp_path / "images" / name), page)
        regions = [{"transcription": word, "points": box(row)} for row, word in enumerate(words)]
        lines.append(f"images/{name}\t{json.dumps(regions)}")
    (tmp_path / "label.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def text_of(line: ImageBgr) -> str:
    return TEXT_OF.get(int(line[line.shape[0] // 2, line.shape[1] // 2, 0]), "?")


@dataclass
class GrayReader:
    """Finds boxes by their gray and reads them by it; `calls` counts what it was asked for."""

    shift_px: int = 0
    suffix: str = ""
    calls: list[str] = field(default_factory=list)

    def detect(self, source: ImageBgr, options: Options) -> Detections:
        assert options.det.limit_side_px == 64
        self.calls.append("detect")
        quads = self._quads(source)
        return Detections(quads, np.ones(len(quads), np.float32))

    def recognize(self, lines: Sequence[ImageBgr], options: Options) -> Sequence[RecognizedLine]:
        assert options.det.limit_side_px == 64
        self.calls.append(f"recognize {len(lines)}")
        return tuple(RecognizedLine(text_of(line) + self.suffix, 1.0, 1.0) for line in lines)

    def read(self, source: ImageBgr, options: Options) -> PageResult:
        assert options.det.limit_side_px == 64
        self.calls.append("read")
        lines = []
        for quad in self._quads(source):
            text = text_of(source[int(quad[0, 1]) : int(quad[2, 1]), int(quad[0, 0]) : int(quad[2, 0])])
            lines.append(TextLine(text + self.suffix, 1.0, 1.0, 1.0, as_quad(quad), as_points(quad)))
        return PageResult(tuple(lines), source.shape[1], source.shape[0], "")

    def _quads(self, page: ImageBgr) -> F32Array:
        rows = [row for row in range(3) if page[20 + 30 * row, 30, 0] < 255]
        return np.array([box(row) for row in rows], np.float32).reshape(-1, 4, 2) + self.shift_px


OPTIONS = Options(det=DetOptions(limit_side_px=64))


def test_a_reader_that_knows_everything(folder: Path) -> None:
    measured = measure(GrayReader(), labels.read_set(folder), OPTIONS)
    # two words that count; the ignored one is found too and left out
    perfect = Ratios(2, 2, 2, 1.0, 1.0, 1.0)
    figures = measured.figures
    assert (measured.images, measured.left_out) == (2, ())
    assert figures.detection == figures.end_to_end_exact == figures.end_to_end_normalised == perfect
    assert figures.recognition_exact is not None
    assert (figures.recognition_exact.lines, figures.recognition_exact.line_accuracy) == (2, 1.0)


def test_a_reader_that_looks_beside(folder: Path) -> None:
    # 50 x 20 boxes moved by (12, 12): 38 * 8 = 304 shared of 1696, IoU 0.18. Of the found box on
    # the ignored word 30 % lies in it, so it counts as a false alarm.
    figures = measure(GrayReader(shift_px=12), labels.read_set(folder), OPTIONS).figures
    assert figures.detection == Ratios(0, 2, 3, 0.0, 0.0, 0.0)
    assert figures.end_to_end_exact == figures.detection
    # crops are those of the true regions, so recognition does not care
    assert figures.recognition_exact is not None
    assert figures.recognition_exact.line_accuracy == 1.0


def test_a_reader_that_adds_a_space(folder: Path) -> None:
    figures = measure(GrayReader(suffix=" "), labels.read_set(folder), OPTIONS).figures
    assert figures.recognition_exact is not None
    assert figures.recognition_normalised is not None
    assert figures.recognition_exact.correct == 0
    # "Exit" against "Exit " is 4/5, two characters against three 2/3
    assert figures.recognition_exact.character_accuracy == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert figures.recognition_normalised.line_accuracy == 1.0
    assert figures.end_to_end_exact == Ratios(0, 2, 2, 0.0, 0.0, 0.0)
    assert figures.end_to_end_normalised == Ratios(2, 2, 2, 1.0, 1.0, 1.0)


def test_polygons_are_used_where_the_reader_gives_them(folder: Path) -> None:
    class PolygonReader(GrayReader):
        def detect(self, source: ImageBgr, options: Options) -> Detections:
            found = super().detect(source, options)
            return Detections(found.quads_px + 40, found.scores, tuple(found.quads_px))

    figures = measure(PolygonReader(), labels.read_set(folder), OPTIONS, stages=("det",)).figures
    assert figures.detection == Ratios(2, 2, 2, 1.0, 1.0, 1.0)


def test_only_the_stages_asked_for_run(folder: Path) -> None:
    reader = GrayReader()
    figures = measure(reader, labels.read_set(folder), OPTIONS, stages=("rec",)).figures
    assert reader.calls == ["recognize 2"]  # both pages' lines at once
    assert figures.recognition_exact is not None
    assert (figures.detection, figures.end_to_end_exact, figures.end_to_end_normalised) == (None, None, None)


def test_lines_are_read_in_bounded_portions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "CROPS_AT_ONCE", 1)
    reader = GrayReader()
    figures = measure(reader, labels.read_set(folder), OPTIONS, stages=("rec",)).figures
    assert reader.calls[:2] == ["recognize 1", "recognize 1"]
    assert figures.recognition_exact is not None
    assert figures.recognition_exact.correct == 2


def test_a_limit_takes_the_first_images(folder: Path) -> None:
    measured = measure(GrayReader(), labels.read_set(folder), OPTIONS, limit_images=1)
    assert measured.images == 1
    assert measured.figures.detection == Ratios(1, 1, 1, 1.0, 1.0, 1.0)


def test_a_broken_picture_is_left_out_and_named_once(folder: Path) -> None:
    (folder / "images/a.png").write_bytes(b"not a picture")
    measured = measure(GrayReader(), labels.read_set(folder), OPTIONS)
    (reason,) = measured.left_out
    assert reason.startswith("images/a.png: ")
    assert measured.images == 1
    assert measured.figures.detection == Ratios(1, 1, 1, 1.0, 1.0, 1.0)


def test_a_region_that_is_no_quad_is_found_but_not_cut(folder: Path) -> None:
    points = [*box(0), [10, 20]]
    region = {"transcription": "文字", "points": points}
    (folder / "label.txt").write_text(f"images/b.png\t{json.dumps([region])}\n", encoding="utf-8")
    (folder / "images/a.png").unlink()
    measured = measure(GrayReader(), labels.read_set(folder), OPTIONS)
    assert measured.left_out == ("images/b.png: 1 regions are no quads, not read",)
    assert measured.figures.detection == Ratios(1, 1, 1, 1.0, 1.0, 1.0)
    assert measured.figures.recognition_exact is not None
    assert measured.figures.recognition_exact.lines == 0


# --- the command line ---


@pytest.fixture
def gray_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(GrayReader):
        provenance = None

    def load(*_: object, **__: object) -> Loaded:
        return Loaded()

    monkeypatch.setattr(Engine, "load", load)


@pytest.mark.usefixtures("gray_engine")
def test_the_command_prints_and_records(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    command = ["--data", str(folder), "--limit-side", "64", "--record", "trial", "--results", str(results)]
    assert accuracy.main(command) == 0
    printed = capsys.readouterr().out
    assert f"{folder.name}: 2 images" in printed
    assert "detection: precision 1.0000, recall 1.0000, Hmean 1.0000 (2 matched, 2 true, 2 found)" in printed
    assert "recognition, exact: line accuracy 1.0000 (2 of 2)" in printed
    written = (results / "trial.json").read_text(encoding="utf-8")
    content = json.loads(written)
    assert content["kind"] == "accuracy"
    assert content["data"]["images"] == content["data"]["images_in_set"] == 2
    assert content["data"]["sha256"] == labels.read_set(folder).sha256
    assert content["figures"]["detection"]["hmean"] == 1.0
    assert content["options"]["det"]["limit_side_px"] == 64
    assert str(tmp_path) not in written


@pytest.mark.usefixtures("gray_engine")
def test_the_same_run_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    command = ["--data", str(folder), "--limit-side", "64", "--results", str(tmp_path), "--record"]
    assert accuracy.main([*command, "one"]) == accuracy.main([*command, "two"]) == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.usefixtures("gray_engine")
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--record", "../up"], "--record: '../up' is not a name"),
        (["--limit-side", "1"], "det.limit_side_px"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_1(
    folder: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert accuracy.main(["--data", str(folder), *extra]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_without_labels_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accuracy.main(["--data", str(tmp_path)]) == 1
    assert "label.txt" in capsys.readouterr().err
