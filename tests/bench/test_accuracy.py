"""The three stages over sets drawn here, read by readers that know, miss or garble the truth."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from ocr_onnx.crop import as_points, as_quad
from ocr_onnx.data import Detections, F32Array, ImageBgr, PageResult, Provenance, TextLine
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OptionError
from ocr_onnx.options import DetOptions, ModelOptions, Options
from ocr_onnx.recognize import RecognizedLine
from ocr_onnx_bench import accuracy, labels
from ocr_onnx_bench.accuracy import Ratios, measure
from tests.conftest import Run

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
    assert figures.end_to_end_official == perfect
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
    assert measured.left_out == (
        "images/b.png: 1 regions are no quads, not read",
        "rec: not measured, there is no line that counts",
    )
    assert measured.figures.detection == Ratios(1, 1, 1, 1.0, 1.0, 1.0)
    assert measured.figures.recognition_exact is None


# --- line pictures ---


@pytest.fixture
def line_pictures(tmp_path: Path) -> Path:
    """A list of line pictures, one of them ignored, one higher than wide."""
    lines = []
    for number, (word, size) in enumerate({"Exit": (20, 50), "###": (20, 50), "文字": (60, 20)}.items()):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((*size, 3), GRAY_OF[word], np.uint8))
        lines.append(f"{number}.png\t{word}")
    (tmp_path / "rec_gt.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_line_pictures_are_read_as_they_are_and_nothing_else_is_measured(line_pictures: Path) -> None:
    class SizeReader(GrayReader):
        def recognize(self, lines: Sequence[ImageBgr], options: Options) -> Sequence[RecognizedLine]:
            assert [line.shape[:2] for line in lines] == [(20, 50), (60, 20)]
            return super().recognize(lines, options)

    measured = measure(SizeReader(), labels.read_set(line_pictures), OPTIONS)
    figures = measured.figures
    assert (figures.detection, figures.end_to_end_exact, figures.end_to_end_official) == (None, None, None)
    assert figures.recognition_exact is not None
    assert (figures.recognition_exact.lines, figures.recognition_exact.correct) == (2, 2)
    assert measured.images == 3
    assert measured.left_out == (
        "det: not measured, the set has line pictures",
        "e2e: not measured, the set has line pictures",
    )


def test_line_pictures_alone_can_not_answer_for_pages(line_pictures: Path) -> None:
    with pytest.raises(OptionError, match=r"det,e2e needs pages.*use rec"):
        measure(GrayReader(), labels.read_set(line_pictures), OPTIONS, stages=("det", "e2e"))


# --- the command line ---


@pytest.fixture
def gray_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(GrayReader):
        provenance = Provenance(
            (("det", "ppocrv4-mobile-det@c5e3"), ("rec", "own@0000")), "cpu", "fake", (1.0, 1.0), "0"
        )

    def load(*_: object, **__: object) -> Loaded:
        return Loaded()

    monkeypatch.setattr(Engine, "load", load)


SMALL = ("--set", "det.limit_side_px=64")


@pytest.mark.usefixtures("gray_engine")
def test_the_command_prints_and_records(run: Run, folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    outcome = run("bench", "accuracy", "--data", folder, *SMALL, "--record", "trial", "--results", results)
    assert outcome.code == 0
    sha256 = labels.read_set(folder).sha256
    assert f"{folder.name} (PP-OCR, label sha256 {sha256[:12]}): 2 of 2 images" in outcome.out
    assert "rule: ICDAR 2015: one to one, IoU > 0.5" in outcome.out
    line = "detection: precision 1.0000, recall 1.0000, Hmean 1.0000 (2 matched, 2 true, 2 found)"
    assert line in outcome.out
    assert "end to end, official: precision 1.0000" in outcome.out
    assert "recognition, exact: line accuracy 1.0000 (2 of 2)" in outcome.out
    written = (results / "trial.json").read_text(encoding="utf-8")
    content = json.loads(written)
    assert content["kind"] == "accuracy"
    assert content["data"]["images"] == content["data"]["images_in_set"] == 2
    assert (content["data"]["sha256"], content["data"]["format"]) == (sha256, "PP-OCR")
    assert content["figures"]["detection"]["hmean"] == 1.0
    assert content["options"]["det"]["limit_side_px"] == 64
    assert str(tmp_path) not in written


@pytest.mark.usefixtures("gray_engine")
def test_published_figures_stand_beside_as_not_comparable(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = run("bench", "accuracy", "--data", folder, *SMALL, "--record", "x", "--results", tmp_path)
    published = [line for line in outcome.out.splitlines() if line.startswith("published: ")]
    assert published == [
        "published: PP-OCRv4_mobile_det, Hmean 77.79 % on PaddleOCR's own Chinese set: "
        "not comparable: private set"
    ]
    content = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in content["not_comparable"]] == ["PP-OCRv4_mobile_det"]


def test_a_model_of_ones_own_has_no_published_figure() -> None:
    same_name = Provenance((("det", "PP-OCRv4_mobile_det@0000"),), "cpu", "fake", (1.0, 1.0), "0")
    assert [model.stage for model in accuracy.published(same_name, ModelOptions())] == ["det"]
    assert accuracy.published(same_name, ModelOptions(det="PP-OCRv4_mobile_det.onnx")) == ()
    assert accuracy.published(None, ModelOptions()) == ()


@pytest.mark.usefixtures("gray_engine")
def test_a_record_is_named_after_the_set_unless_told(run: Run, folder: Path, tmp_path: Path) -> None:
    named = folder.rename(folder.with_name("my set (v2.1)"))
    assert run("bench", "accuracy", "--data", named, *SMALL, "--results", tmp_path / "out").code == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["accuracy-my-set-v2-1.json"]


@pytest.mark.usefixtures("gray_engine")
def test_the_same_run_writes_the_same_bytes(run: Run, folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        arguments = ("--data", folder, *SMALL, "--results", tmp_path, "--record", name)
        assert run("bench", "accuracy", *arguments).code == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.usefixtures("gray_engine")
def test_zeros_are_explained(run: Run, folder: Path, tmp_path: Path) -> None:
    regions = [{"transcription": "Exit", "points": [[70, 90], [75, 90], [75, 95], [70, 95]]}]
    (folder / "label.txt").write_text(f"images/a.png\t{json.dumps(regions)}\n", encoding="utf-8")
    command = ("bench", "accuracy", "--data", folder, *SMALL, "--stages", "e2e,det", "--results", tmp_path)
    outcome = run(*command)
    assert "detection: precision 0.0000, recall 0.0000, Hmean 0.0000 (0 matched, 1 true, 2" in outcome.out
    assert "detection: nothing matched; do the labels belong to these pictures" in outcome.out
    assert "left out: images/b.png: a picture without a label" in outcome.out

    regions[0]["transcription"] = "###"
    (folder / "label.txt").write_text(f"images/a.png\t{json.dumps(regions)}\n", encoding="utf-8")
    outcome = run(*command)
    assert outcome.code == 0
    assert "detection: every true region is ignored, so these zeros say nothing" in outcome.out


@pytest.mark.usefixtures("gray_engine")
def test_a_long_list_of_what_was_left_out_is_cut_short(run: Run, folder: Path, tmp_path: Path) -> None:
    for number in range(25):
        (folder / f"images/c{number:02}.png").touch()
    outcome = run("bench", "accuracy", "--data", folder, *SMALL, "--record", "x", "--results", tmp_path)
    assert "left out: images/c19.png: a picture without a label\nleft out: 5 more, all in" in outcome.out
    content = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert len(content["left_out"]) == 25


@pytest.mark.usefixtures("gray_engine")
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--record", "../up"), "--record: '../up' is not a name"),
        (("--set", "det.limit_side_px=1"), "det.limit_side_px"),
        (("--stages", "det,read"), "--stages: 'read' is no stage; use some of det,rec,e2e"),
        (("--stages", ""), "--stages: '' is no stage"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(
    run: Run, folder: Path, tmp_path: Path, extra: tuple[str, ...], message: str
) -> None:
    outcome = run("bench", "accuracy", "--data", folder, "--results", tmp_path / "out", *extra)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("gray_engine")
def test_no_picture_that_can_be_read_is_an_error_and_no_record(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    for name in WORDS:
        (folder / "images" / name).write_bytes(b"not a picture")
    outcome = run("bench", "accuracy", "--data", folder, *SMALL, "--results", tmp_path / "out")
    assert outcome.code == 1
    assert "not one picture could be read (images/a.png: " in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("inside", "message"), [("", "holds no labels"), ("gone", "does not exist")])
def test_a_set_that_is_none_is_one_line_and_exit_1(
    run: Run, tmp_path: Path, inside: str, message: str
) -> None:
    outcome = run("bench", "accuracy", "--data", tmp_path / inside)
    assert outcome.code == 1
    assert message in outcome.err
    assert "label.txt" in outcome.err


def test_missing_weights_are_an_error_that_names_pull(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("OCR_ONNX_MODEL_DIR", raising=False)
    outcome = run("bench", "accuracy", "--data", folder, "--model-set", "server", "--results", tmp_path)
    assert outcome.code == 1
    assert "is not on this machine" in outcome.err
    assert "ocr-onnx models pull" in outcome.err
