"""`ocr-onnx bench peers` with fake engines that speak the workers' protocol: `fake_peer.py`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from ocr_onnx.errors import InputError, OptionError
from ocr_onnx_bench import peer_figures, peer_install, peer_pages, peer_running, peers
from ocr_onnx_bench.labels import LabelledPage, TrueRegion
from ocr_onnx_bench.peer_figures import Accuracy, EngineFigures, SameRegions, Share
from ocr_onnx_bench.peer_install import Peer
from ocr_onnx_bench.peer_running import Plan, ReadLine, Turn
from tests.conftest import Run

FAKE = Path(__file__).with_name("fake_peer.py")
QUAD = ((10.0, 10.0), (110.0, 10.0), (110.0, 40.0), (10.0, 40.0))

Install = Callable[..., None]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "turns.log"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, log: Path) -> Install:
    """Make fake engines all there are: name=(kind, seconds a page, peak MiB)."""

    def install(**engines: tuple[str, float, float]) -> None:
        table = tuple(
            Peer(
                name,
                kind,
                "own",
                settings=(("name", name), ("seconds", str(s)), ("rss", str(rss)), ("log", str(log))),
            )
            for name, (kind, s, rss) in engines.items()
        )
        monkeypatch.setattr(peer_install, "peers", lambda: table)
        monkeypatch.setattr(peer_running, "WORKER", FAKE)
        monkeypatch.setattr(peer_running, "PAUSE_S", 0.0)

    return install


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures, a text file and a folder."""
    folder = tmp_path / "some pages"
    (folder / "deeper").mkdir(parents=True)
    (folder / "LICENSE").write_text("free")
    for name in ("b.png", "a.png", "deeper/c.png"):
        cv2.imwrite(str(folder / name), np.full((64, 128, 3), 255, np.uint8))
    return folder


@pytest.fixture
def labelled(pictures: Path) -> Path:
    """The pictures with labels: "page" where the fake engines find it, and one more region."""
    region = {"transcription": "ＰＡＧＥ", "points": QUAD}
    missed = {"transcription": "else", "points": [[0, 50], [20, 50], [20, 60], [0, 60]]}
    lines = [f"a.png\t{json.dumps([region])}", f"b.png\t{json.dumps([region, missed])}"]
    (pictures / "label.txt").write_text("\n".join(lines), encoding="utf-8")
    return pictures


def quiet(_step: str) -> None:
    pass


def test_engines_take_turns_in_another_order_every_round(install: Install, pictures: Path, log: Path) -> None:
    install(a=("good", 1, 100), b=("good", 2, 200), c=("good", 4, 400))
    peers.make_record(pictures, Plan(baseline="a", repetitions=2, timeout_s=30), quiet)
    lines = log.read_text().splitlines()
    assert lines[:3] == ["a a.png", "b a.png", "c a.png"]  # the first page belongs to starting
    turns = lines[3:]
    assert turns == [
        f"{name} {page}" for name in "abc" + "cba" + "bca" for page in ("a.png", "b.png")
    ]  # the first round warms up


def test_no_engine_is_always_first_or_always_after_the_same_one() -> None:
    names = ["a", "b", "c", "d"]
    orders = [peer_running.order_of(names, number) for number in range(8)]
    assert all(sorted(order) == names for order in orders)
    assert {order[0] for order in orders} == set(names)
    pairs = [pair for order in orders for pair in pairwise(order)]
    assert len({before for before, after in pairs if after == "a"}) > 1
    assert peer_running.order_of(["a"], 3) == ["a"]


def test_times_memory_and_shares_are_told_side_by_side(install: Install, pictures: Path) -> None:
    install(ours=("good", 0.5, 100), other=("good", 2, 400))
    found = peers.make_record(pictures, Plan(baseline="ours", repetitions=3, threads=1), quiet)
    ours, other = found.engines
    assert (found.threads, found.repetitions, found.pages, found.labelled) == (1, 3, 2, False)
    assert other.page_ms == (2000.0,) * 3
    assert other.page_cpu_ms == (4000.0,) * 3
    assert (other.median_ms, other.median_cpu_ms, other.peak_rss_mib) == (2000, 4000, 400)
    assert (other.lines, other.characters, other.repeatable, other.accuracy) == (2, 8, True, None)
    assert other.versions == (("fake", "1.0"),)
    assert other.facts == (("threads", "1"),)
    assert other.start_s > 0
    assert other.baseline_share == Share(0.25, 0.25, 0.25, 0.25, 0.25)
    assert ours.baseline_share == Share(1, 1, 1, 1, 1)
    assert found.left_out == ("accuracy: holds no labels",)


def figures(name: str, page_ms: Sequence[float], cpu_ms: float, rss: float) -> EngineFigures:
    return EngineFigures(
        name=name,
        weights="own",
        options=(),
        versions=(),
        facts=(),
        start_s=1.0,
        median_ms=float(np.median(page_ms)),
        median_cpu_ms=cpu_ms,
        page_ms=tuple(page_ms),
        page_cpu_ms=(cpu_ms,) * len(page_ms),
        peak_rss_mib=rss,
        lines=1,
        characters=1,
        repeatable=True,
        accuracy=None,
    )


def test_a_share_is_of_medians_and_its_range_is_of_rounds() -> None:
    ours = figures("ours", (10, 12, 50), cpu_ms=20, rss=100)
    other = figures("other", (40, 24, 25), cpu_ms=50, rss=400)
    assert peer_figures.share_of(ours, other) == Share(
        time=12 / 25, time_lowest=10 / 40, time_highest=50 / 25, cpu=20 / 50, peak_rss=100 / 400
    )


def test_only_the_same_regions_are_compared_text_by_text() -> None:
    beside = tuple((x + 200, y + 200) for x, y in QUAD)
    below = tuple((x, y + 400) for x, y in QUAD)
    regions = [
        TrueRegion(np.array(quad, np.float32), text, False)
        for quad, text in ((QUAD, "page"), (beside, "ABCD"), (below, "hard"))
    ]
    page = LabelledPage("a.png", Path("a.png"), tuple(regions))
    ours = [ReadLine(below, "h"), ReadLine(beside, "abcd"), ReadLine(QUAD, "page")]
    theirs = [ReadLine(QUAD, "pag"), ReadLine(beside, "ABCD")]
    assert peer_figures.same_regions([page], [ours], [theirs]) == SameRegions(
        regions=2,
        character_accuracy=0.875,
        line_accuracy=0.5,
        baseline_character_accuracy=1.0,
        baseline_line_accuracy=1.0,
    )
    assert peer_figures.same_regions([page], [ours[:1]], [theirs]) is None


def test_a_share_outside_the_networks_is_the_median_of_pages_where_it_is_known() -> None:
    turns = [Turn(2.0, 2.0, shares, ()) for shares in ((0.1, 0.2), (0.4, 0.3))]
    assert peer_figures.outside_share(turns) == pytest.approx(0.25)
    assert peer_figures.outside_share([Turn(2.0, 2.0, None, ())]) is None


def test_labels_give_accuracy(install: Install, labelled: Path) -> None:
    install(ours=("good", 1, 100), moody=("moody", 1, 100))
    found = peers.make_record(labelled, Plan(baseline="ours", repetitions=2), quiet)
    ours, moody = found.engines
    # three regions, two found, both with the right text once full width and case are folded
    assert ours.accuracy == Accuracy(1.0, 2 / 3, 0.8, 0.8, 1.0, matched=2, truths=3, found=2)
    assert moody.accuracy is not None
    assert (moody.accuracy.hmean, moody.accuracy.end_to_end_f1) == (0.8, 0.0)
    assert moody.accuracy.character_accuracy == pytest.approx(4 / 5)
    assert (ours.repeatable, moody.repeatable) == (True, False)
    assert ours.baseline_share is not None
    assert ours.baseline_share.time == 1.0
    assert moody.same_regions is not None
    assert moody.same_regions.character_accuracy == pytest.approx(4 / 5)
    assert replace(moody.same_regions, character_accuracy=0.8) == SameRegions(2, 0.8, 0.0, 1.0, 1.0)
    assert "2 regions that moody and ours both matched: characters 0.8000 and 1.0000" in peer_figures.summary(
        found
    )
    assert "not the same text every time: moody" in peer_figures.summary(found)


def test_ignored_regions_and_their_texts_do_not_count() -> None:
    true = TrueRegion(np.array(QUAD, np.float32), "page", False)
    ignored = TrueRegion(np.array(QUAD, np.float32) + 200, "###", True)
    page = LabelledPage("a.png", Path("a.png"), (ignored, true))
    beside = tuple((x + 200, y + 200) for x, y in QUAD)
    found = peer_figures.accuracy_of([page], [[ReadLine(beside, "what"), ReadLine(QUAD, "pag")]])
    assert found == Accuracy(1.0, 1.0, 1.0, 0.0, 0.75, matched=1, truths=1, found=1)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("unstartable", "ended with status 1 (RuntimeError: no model at weights.bin), at a.png"),
        ("crash", "ended with status 1 (RuntimeError: no model at weights.bin), at b.png"),
        ("killed", "was ended by signal 6, at a.png"),
        ("garbage", "gave an answer that is none (Loading checkpoint shards: 100%), at a.png"),
        ("silent", "gave no answer within 2 s, at a.png"),
    ],
)
def test_an_engine_that_fails_is_left_out_and_the_others_go_on(
    install: Install, pictures: Path, kind: str, cause: str
) -> None:
    install(ours=("good", 1, 100), bad=(kind, 1, 100), other=("good", 2, 100))
    found = peers.make_record(pictures, Plan(baseline="ours", repetitions=2, timeout_s=2), quiet)
    assert [engine.name for engine in found.engines] == ["ours", "other"]
    assert found.left_out[1:] == (f"bad: {cause}",)


def test_without_its_baseline_a_record_has_no_shares(install: Install, pictures: Path) -> None:
    install(ours=("crash", 1, 100), other=("good", 2, 100))
    found = peers.make_record(pictures, Plan(baseline="ours", repetitions=2), quiet)
    assert [engine.baseline_share for engine in found.engines] == [None]
    assert found.left_out[-1] == "ratios: ours, which they are against, did not run"
    assert "ratios: ours" in peer_figures.summary(found)


def test_no_engine_at_all_is_an_error(install: Install, pictures: Path) -> None:
    install(ours=("unstartable", 1, 100))
    with pytest.raises(InputError, match=r"no engine could be run.*RuntimeError"):
        peers.make_record(pictures, Plan(baseline="ours"), quiet)


def test_an_engine_that_can_not_be_installed_is_left_out(
    install: Install, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(ours=("good", 1, 100))
    ours, broken = peer_install.peers()[0], tmp_path / "broken"
    broken.mkdir()
    (broken / "pyproject.toml").write_text("[build-system")
    table = (ours, Peer("broken", "good", "own", (str(broken),)))
    monkeypatch.setattr(peer_install, "peers", lambda: table)
    found = peers.make_record(pictures, Plan(baseline="ours", repetitions=1, envs=tmp_path / "envs"), quiet)
    assert [engine.name for engine in found.engines] == ["ours"]
    assert found.left_out[-1].startswith("broken: can't be installed (")
    assert str(tmp_path) not in found.left_out[-1]
    assert not list((tmp_path / "envs").glob(f"*/{peer_install.READY}"))


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (Plan(engines=("ours", "tesseract")), "'tesseract' is no engine; choose from ours, other"),
        (Plan(baseline="theirs"), "'theirs' is not among the engines"),
        (Plan(baseline="other", engines=("ours",)), "'other' is not among the engines"),
        (Plan(baseline="ours", threads=10_000), "10000 is more than the"),
        (Plan(baseline="ours", engines=("ours",), det_model=Path("x.onnx")), "comes together with"),
    ],
)
def test_a_plan_that_can_not_be_honoured_is_refused(
    install: Install, pictures: Path, plan: Plan, problem: str
) -> None:
    install(ours=("good", 1, 100), other=("good", 1, 100))
    with pytest.raises(OptionError, match=problem):
        peers.make_record(pictures, plan, quiet)


def test_pages_are_a_labelled_set_a_folder_or_one_picture(labelled: Path, pictures: Path) -> None:
    found = peer_pages.read_pages(labelled)
    assert (found.labelled, [page.name for page in found.pages]) == (True, ["a.png", "b.png"])
    (labelled / "label.txt").unlink()
    plain = peer_pages.read_pages(pictures)
    assert (plain.labelled, [page.name for page in plain.pages]) == (False, ["a.png", "b.png"])
    assert len(peer_pages.read_pages(pictures, 1).pages) == 1
    one = peer_pages.read_pages(pictures / "b.png")
    assert one.problems == ("accuracy: one picture has no labels",)
    assert (one.name, [page.name for page in one.pages]) == ("b", ["b.png"])
    assert len({found.sha256, plain.sha256, one.sha256}) == 3


def test_line_pictures_have_no_regions_to_compare(pictures: Path) -> None:
    (pictures / "rec_gt.txt").write_text("a.png\tpage\nb.png\tpage\n")
    found = peer_pages.read_pages(pictures)
    assert (found.labelled, len(found.pages)) == (False, 2)
    assert found.problems == ("accuracy: the labels of line pictures have no regions",)


def test_a_picture_that_can_not_be_read_is_left_out(pictures: Path) -> None:
    (pictures / "a.png").write_bytes(b"no picture")
    found = peer_pages.read_pages(pictures)
    assert [page.name for page in found.pages] == ["b.png"]
    assert found.problems[-1].startswith("a.png: ")
    (pictures / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="no page could be used"):
        peer_pages.read_pages(pictures)
    with pytest.raises(InputError, match="does not exist"):
        peer_pages.read_pages(pictures / "deeper" / "nothing")


def test_the_command_prints_a_table_and_writes_the_record(
    install: Install, labelled: Path, run: Run, tmp_path: Path
) -> None:
    install(ours=("good", 0.5, 100), other=("good", 2, 400), bad=("unstartable", 1, 1))
    arguments = ("--data", labelled, "--baseline", "ours", "--repetitions", "2", "--results", tmp_path)
    outcome = run("bench", "peers", *arguments)
    assert outcome.code == 0
    head, columns, first, second, *rest = outcome.out.splitlines()
    assert head.startswith("some pages: 2 pages, ")
    assert columns.split()[:3] == ["engine", "ms/page", "lowest"]
    assert first.split()[:2] == ["ours", "500.0"]
    assert second.split()[-4:] == ["0.25", "0.25-0.25", "0.25", "0.25"]
    assert "other weights: other" in rest
    assert any(line.startswith("left out: bad: ended with status 1") for line in rest)
    assert "peers: round 2 of 2" in outcome.err
    found = json.loads((tmp_path / "peers-some-pages.json").read_text())
    assert found["kind"] == "peers"
    assert [engine["page_ms"] for engine in found["engines"]] == [[500, 500], [2000, 2000]]
    assert str(tmp_path) not in json.dumps(found)


def test_a_bad_record_name_is_refused_before_anything_runs(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", "peers", "--data", tmp_path, "--record", "../x")
    assert outcome.code == 2
    assert "is not a name" in outcome.err
