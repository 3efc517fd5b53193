"""`ocr-onnx bench peers --throughput` with fake engines, and with ours on one page."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from ocr_onnx.errors import InputError, OptionError
from ocr_onnx_bench import peer_install, peer_running, throughput
from ocr_onnx_bench.labels import LabelledPage
from ocr_onnx_bench.peer_install import Peer
from ocr_onnx_bench.peer_running import Plan
from ocr_onnx_bench.throughput import ONE_THREAD, Layout, LayoutFigures, Pass, Ratio
from tests.conftest import Run

FAKE = Path(__file__).with_name("fake_peer.py")
DEMO = Path(__file__).parents[1] / "data" / "boarding-pass.png"
SIX = ["1x1", "1x6", "2x3", "3x2", "6x1"]
SHARED = (Layout(1, 1), Layout(1, 2), Layout(2, 1))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake engines are all there are."""
    file = tmp_path / "turns.log"

    def fake(name: str, kind: str, rss: int) -> Peer:
        settings = (("name", name), ("seconds", "1"), ("rss", str(rss)), ("log", str(file)))
        return Peer(name, kind, "own", settings=settings)

    table = (fake("good", "good", 100), fake("bad", "unstartable", 1))
    monkeypatch.setattr(peer_install, "peers", lambda: table)
    monkeypatch.setattr(peer_running, "WORKER", FAKE)
    monkeypatch.setattr(peer_running, "PAUSE_S", 0.0)
    return file


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(folder / name), np.full((64, 128, 3), 255, np.uint8))
    return folder


def quiet(_step: str) -> None:
    pass


def test_peers_fill_the_threads_with_processes_and_ours_streams() -> None:
    assert throughput.layouts_of("rapidocr_1", 2) == SHARED
    assert [str(layout) for layout in throughput.layouts_of("paddleocr", 6)] == [
        "1x1",
        "1x6",
        "2x3",
        "3x2",
        "6x1",
    ]
    assert throughput.layouts_of("ocr_onnx", 2) == (*SHARED[:2], Layout(1, 1, 1), Layout(1, 2, 2))
    assert [str(layout) for layout in throughput.layouts_of("ocr_onnx", 1)] == [
        "1x1",
        "1x1 stream 1",
        "1x1 stream 2",
    ]


def test_layouts_are_told_side_by_side(log: Path, pictures: Path) -> None:
    plan = Plan(engines=("good",), baseline="good", repetitions=2, threads=2)
    found = throughput.make_record(pictures, plan, 7, quiet)
    assert (found.pages, found.pages_per_pass, found.repetitions) == (3, 7, 2)
    assert [one.layout for one in found.layouts] == list(SHARED)
    assert [one.peak_rss_mib for one in found.layouts] == [100, 100, 200]
    assert [one.cpu_ms for one in found.layouts] == [2000] * 3
    assert all(len(one.rounds_pages_per_s) == 2 and one.other_text == () for one in found.layouts)
    assert sum(one.best for one in found.layouts) == 1
    # four processes read one page to start; three layouts make three passes, one of them to warm up
    assert len(log.read_text().splitlines()) == 4 + 3 * 3 * 7


@pytest.mark.usefixtures("log")
def test_a_pass_is_the_set_so_often_that_it_has_some_pages(pictures: Path) -> None:
    plan = Plan(engines=("good",), baseline="good", repetitions=1, threads=1)
    assert throughput.make_record(pictures, plan, 0, quiet).pages_per_pass == 21


def test_other_text_is_named_once_a_page() -> None:
    pages = [LabelledPage(name, Path(name), ()) for name in ("a.png", "b.png", "a.png")]
    right = (("x",), ("y",), ("x",))
    passes = [Pass(1.0, 1.0, right), Pass(1.0, 1.0, (("x", "z"), ("y",), ("z",)))]
    assert throughput.other_text(passes[:1], pages, right) == ()
    assert throughput.other_text(passes, pages, right) == ("a.png",)


@pytest.mark.usefixtures("log")
def test_a_layout_that_fails_leaves_the_others(pictures: Path) -> None:
    plan = Plan(engines=("good", "bad"), baseline="good", repetitions=1, threads=1)
    found = throughput.make_record(pictures, plan, 3, quiet)
    assert [one.engine for one in found.layouts] == ["good"]
    assert found.left_out == (
        "bad 1x1: ended with status 1 (RuntimeError: no model at weights.bin), at a.png",
    )
    with pytest.raises(InputError, match="no engine could be run"):
        throughput.make_record(pictures, Plan(engines=("bad",), baseline="bad"), 3, quiet)


def figures(engine: str, layout: Layout, speeds: Sequence[float]) -> LayoutFigures:
    median = float(np.median(speeds))
    return LayoutFigures(engine, "own", (), (), (), layout, median, tuple(speeds), 1.0, 1.0, ())


def test_ratios_are_of_medians_and_their_ranges_of_rounds() -> None:
    found = throughput.with_ratios(
        [
            figures("ours", ONE_THREAD, (2, 4, 4)),
            figures("ours", Layout(1, 2, 2), (8, 8, 4)),
            figures("other", Layout(2, 1), (2, 1, 2)),
        ],
        "ours",
    )
    assert [one.best for one in found] == [False, True, True]
    assert [one.over_one_thread for one in found] == [Ratio(1, 1, 1), Ratio(2, 1, 4), None]
    assert [one.baseline_over for one in found] == [Ratio(2, 1, 4), Ratio(1, 1, 1), Ratio(4, 2, 8)]


def test_the_command_writes_a_record_of_our_own_engine(run: Run, tmp_path: Path) -> None:
    spec = "ocr-onnx@det.limit_side_px=320"
    arguments = ("--data", DEMO, "--engines", spec, "--baseline", spec, "--repetitions", "1")
    outcome = run(
        "bench", "peers", "--throughput", *arguments, "--pages-per-pass", "2", "--results", tmp_path
    )
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "throughput-boarding-pass.json").read_text())
    assert (found["kind"], found["left_out"]) == ("throughput", [])
    assert {layout["layout"]["workers"] for layout in found["layouts"]} >= {None, 1, 2}
    for layout in found["layouts"]:
        assert layout["engine"] == spec
        assert layout["options"] == ["det.limit_side_px=320"]
        assert layout["other_text"] == []


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("ocr-onnx@det.nothing=1", "nothing"),
        ("ocr-onnx@det.limit_side_px", "has no '='"),
        ("ocr-onnx@runtime.threads=1", "changes models or runtime"),
        ("rapidocr1-onnxruntime@det.limit_side_px=640", "options to another's engine"),
        ("nobody@det.limit_side_px=640", "'nobody' is no engine"),
    ],
)
def test_options_that_can_not_be_honoured_are_refused(spec: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        peer_running.wanted_peers(Plan(engines=(spec,), baseline=spec))


def test_pages_of_a_pass_need_throughput(run: Run) -> None:
    outcome = run("bench", "peers", "--data", DEMO, "--pages-per-pass", "2")
    assert outcome.code == 2
    assert "--pages-per-pass" in outcome.err
