"""Pages drawn here, searched at several sizes by a reader that finds small boxes at large sizes only."""

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
from ocr_onnx.errors import InputError, OptionError
from ocr_onnx.options import DetOptions, Options
from ocr_onnx_bench import figures, labels, sides
from ocr_onnx_bench.accuracy import Ratios
from ocr_onnx_bench.metrics import Counts
from ocr_onnx_bench.sides import Sample, Size, Times, figures_of, measure, sizes_of
from tests.conftest import Run

LARGE = [[10, 10], [60, 10], [60, 40], [10, 40]]
SMALL = [[10, 60], [60, 60], [60, 70], [10, 70]]
FINE_PX = 100  # the small box is found from here on, and with "auto"
SIZES = sizes_of((64, 100, 300), Options())


def words(name: str) -> str:
    regions = [{"transcription": "Exit", "points": LARGE}, {"transcription": "Wagen", "points": SMALL}]
    return f"{name}\t{json.dumps(regions)}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two pages of 80 x 120 px, each with two words."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((120, 80, 3), 255, np.uint8))
    (tmp_path / "label.txt").write_text(f"{words('a.png')}\n{words('b.png')}\n", encoding="utf-8")
    return tmp_path


@dataclass
class SizedReader:
    """Knows where the boxes are; reads the small one wrong. `calls` tells what it was asked for."""

    calls: list[str] = field(default_factory=list)

    def detect(self, source: ImageBgr, options: Options) -> Detections:
        assert source.shape == (120, 80, 3)
        self.calls.append(f"detect {label(options)}")
        quads = quads_at(options)
        return Detections(quads, np.ones(len(quads), np.float32))

    def read(self, source: ImageBgr, options: Options) -> PageResult:
        self.calls.append(f"read {label(options)}")
        lines = tuple(
            TextLine(text, 1.0, 1.0, 1.0, as_quad(quad), as_points(quad))
            for text, quad in zip(("EXIT", "Waben"), quads_at(options), strict=False)
        )
        return PageResult(lines, source.shape[1], source.shape[0], "")


def label(options: Options) -> str:
    return "auto" if options.det.limit_type == "auto" else str(options.det.limit_side_px)


def quads_at(options: Options) -> F32Array:
    fine = options.det.limit_type == "auto" or options.det.limit_side_px >= FINE_PX
    return np.array([LARGE, SMALL] if fine else [LARGE], np.float32)


def test_every_size_has_its_own_accuracy(folder: Path) -> None:
    measured = measure(SizedReader(), labels.read_set(folder), SIZES, read=True)
    assert (measured.images, measured.left_out) == (2, ())
    coarse, fine, whole, auto = measured.sizes
    assert [(one.limit_type, one.side_px) for one in measured.sizes] == [
        ("max", 64),
        ("max", 100),
        ("max", 300),
        ("auto", 1600),
    ]
    # on either page one of two words, then both; "EXIT" counts as "Exit", "Waben" not as "Wagen"
    assert coarse.detection == Ratios(2, 4, 2, 1.0, 0.5, 2 * 2 / 6)
    assert coarse.end_to_end_normalised == coarse.detection
    assert coarse.character_accuracy == 1.0
    for one in (fine, whole, auto):
        assert one.detection == Ratios(4, 4, 4, 1.0, 1.0, 1.0)
        assert one.end_to_end_normalised == Ratios(2, 4, 4, 0.5, 0.5, 0.5)
        assert one.character_accuracy == pytest.approx((1 + 4 / 5) / 2)


def test_sizes_take_turns_page_by_page_after_one_round_that_does_not_count(folder: Path) -> None:
    reader = SizedReader()
    measure(reader, labels.read_set(folder), SIZES, read=True)
    rounds = [reader.calls[start : start + 8] for start in range(0, len(reader.calls), 8)]
    in_order = [f"{call} {size}" for size in ("64", "100", "300", "auto") for call in ("detect", "read")]
    assert rounds == [in_order, in_order, in_order[2:] + in_order[:2]]


def test_sides_that_leave_a_page_as_it_is_share_one_run(folder: Path) -> None:
    reader = SizedReader()
    sizes = sizes_of((100, 120, 160, 300), Options())
    measured = measure(reader, labels.read_set(folder), sizes, read=False, limit_images=1)
    assert reader.calls == ["detect 100", "detect 120", "detect auto"] * 2
    _, own, larger, largest, _ = measured.sizes
    assert own.detection_time == larger.detection_time == largest.detection_time


def test_without_reading_nothing_is_read(folder: Path) -> None:
    reader = SizedReader()
    measured = measure(reader, labels.read_set(folder), SIZES, read=False)
    assert not [call for call in reader.calls if call.startswith("read")]
    for one in measured.sizes:
        assert (one.end_to_end_normalised, one.character_accuracy, one.read_time) == (None, None, None)


def test_times_are_of_pages_and_set_against_auto() -> None:
    def samples(times: Sequence[float]) -> list[Sample]:
        return [Sample(Counts(1, 1, 1), ms, Counts(0, 1, 1), (), 10 * ms) for ms in times]

    found = figures_of(Size("max", 640), samples((10, 20, 90)), samples((20, 80, 100)))
    assert found.detection_time == Times(20, 40, 0.5)
    assert found.read_time == Times(200, 400, 0.5)
    assert found.character_accuracy == 0.0


def test_a_broken_picture_is_left_out_and_named(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"not a picture")
    measured = measure(SizedReader(), labels.read_set(folder), SIZES, read=False)
    (reason,) = measured.left_out
    assert reason.startswith("a.png: ")
    assert measured.images == 1
    (folder / "b.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match="not one picture could be read"):
        measure(SizedReader(), labels.read_set(folder), SIZES, read=False)


def test_line_pictures_have_no_size_to_choose(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 50, 3), np.uint8))
    (tmp_path / "rec_gt.txt").write_text("a.png\tExit\n", encoding="utf-8")
    with pytest.raises(InputError, match="has line pictures"):
        measure(SizedReader(), labels.read_set(tmp_path), SIZES, read=False)


def test_auto_is_what_the_options_say_and_all_sizes_share_the_rest() -> None:
    options = Options(det=DetOptions(limit_side_px=1200, thresh=0.4))
    sizes = sizes_of((640,), options)
    assert sizes[Size("auto", 1200)] == options
    assert sizes[Size("max", 640)].det == DetOptions(limit_type="max", limit_side_px=640, thresh=0.4)
    with pytest.raises(OptionError, match=r"det\.limit_type: is 'min', but every size has its own"):
        sizes_of((640,), Options(det=DetOptions(limit_type="min")))


# --- the command line ---


@pytest.fixture
def sized_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the engine, so that the command runs without weights."""

    class Loaded(SizedReader):
        provenance = None

    def load(*_: object, **__: object) -> Loaded:
        return Loaded()

    monkeypatch.setattr(Engine, "load", load)


@pytest.mark.usefixtures("sized_engine")
def test_the_command_writes_a_record_that_the_readme_check_knows(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    command = ("--data", folder, "--sides", "100,64,100", "--threads", 3, "--results", tmp_path / "out")
    outcome = run("bench", "sides", *command, "--record", "sides-x")
    assert (outcome.code, outcome.err) == (0, "")
    row = next(line for line in outcome.out.splitlines() if line.split()[0] == "64")
    assert row.split()[1:4] == ["1.0000", "0.5000", "0.6667"]
    content = json.loads((tmp_path / "out/sides-x.json").read_text(encoding="utf-8"))
    assert (content["kind"], content["threads"], content["data"]["images"]) == ("sides", 3, 2)
    assert [size["side_px"] for size in content["sizes"]] == [64, 100, 1600]
    assert content["options"]["det"]["limit_type"] == "auto"
    assert str(tmp_path) not in json.dumps(content)

    page = tmp_path / "PAGE.md"
    page.write_text("## Accuracy\nAt 64 px Hmean is 0.667, or 66.7 % (`sides-x`).\n", encoding="utf-8")
    assert figures.unbacked(page, tmp_path / "out") == ()
    page.write_text("## Accuracy\nAt 64 px Hmean is 0.6789 (`sides-x`).\n", encoding="utf-8")
    assert figures.unbacked(page, tmp_path / "out") == ("PAGE.md:2: 0.6789 is not in sides-x",)


@pytest.mark.usefixtures("sized_engine")
def test_a_record_is_named_after_the_set_and_may_have_detection_only(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    named = folder.rename(folder.with_name("my set"))
    results = tmp_path.with_name("results")
    outcome = run("bench", "sides", "--data", named, "--stages", "det", "--results", results)
    assert outcome.code == 0
    content = json.loads((results / "sides-my-set.json").read_text(encoding="utf-8"))
    assert {size["read_time"] for size in content["sizes"]} == {None}


@pytest.mark.usefixtures("sized_engine")
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--record", "../up"), "--record: '../up' is not a name"),
        (("--sides", "64,wide"), "--sides: '64,wide' is no list of sides; give pixels, as 640,960"),
        (("--sides", "5"), "det.limit_side_px"),
        (("--stages", "rec"), "--stages: rec does not fit, as sizes are detection's; use det or det,e2e"),
        (("--stages", "e2e"), "--stages: e2e does not fit"),
        (("--set", "det.limit_type=max"), "det.limit_type: is 'max', but every size has its own"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(
    run: Run, folder: Path, tmp_path: Path, extra: tuple[str, ...], message: str
) -> None:
    outcome = run("bench", "sides", "--data", folder, "--results", tmp_path / "out", *extra)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_commands_default_is_what_the_record_has(run: Run) -> None:
    assert sides.parse_sides("960, 640,960") == (640, 960)
    outcome = run("bench", "sides", "--help")
    assert "640,960,1280,1600,1920,2560" in outcome.out
