import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ocr_onnx.data import F32Array, ImageBgr, PageResult
from ocr_onnx.engine import Engine
from ocr_onnx.errors import InputError, ModelContractError, OcrError, OptionError
from ocr_onnx.inference import Networks
from ocr_onnx.options import (
    ClsOptions,
    CropOptions,
    DetOptions,
    InputOptions,
    ModelOptions,
    Options,
    RecOptions,
)
from ocr_onnx.recognize import CtcSteps

DEMO = Path(__file__).parent / "data" / "boarding-pass.png"
FONT = Path(__file__).parents[1] / "ocr_onnx" / "fonts" / "wqy-microhei-subset.ttf"
RED = (0, 0, 255)


def _page(*bars: tuple[int, int, int, int], size: tuple[int, int] = (128, 256)) -> ImageBgr:
    """A white page with black bars (x0, y0, x1, y1), which the fakes below take for text."""
    page = np.full((*size, 3), 255, np.uint8)
    for x0, y0, x1, y1 in bars:
        page[y0:y1, x0:x1] = 0
    return page


def _dark(images: NDArray[np.uint8]) -> F32Array:
    prob_map: F32Array = (images.mean(axis=3) < 128).astype(np.float32)
    return prob_map


def _one_letter(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
    """Read every line as one "a", with a probability that tells the line's width."""
    labels = np.zeros((len(images), images.shape[2] // 8), np.int64)
    labels[:, 1] = 1
    probs = np.broadcast_to((content_px[:, None] / 1000).astype(np.float32), labels.shape)
    return CtcSteps(labels, probs)


def _fake(**changes: object) -> Engine:
    return replace(Engine(_dark, _one_letter, ("", "a", " ")), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mobile() -> Engine:
    return Engine.load("mobile", threads=2)


def test_lines_come_with_their_regions_in_reading_order() -> None:
    result = _fake().read(_page((20, 80, 120, 100), (20, 20, 220, 40)))
    assert result.text == "a\na"
    assert (result.width_px, result.height_px, result.source) == (256, 128, "<array>")
    upper, lower = result.lines
    assert upper.quad_px[0][1] < 20 < 40 < upper.quad_px[2][1] < 80
    assert upper.rec_score > lower.rec_score
    assert upper.det_score == pytest.approx(1.0)
    assert upper.outline_px == upper.quad_px
    assert result.warnings == ()


def test_an_empty_page_is_an_empty_result() -> None:
    result = _fake().read(_page())
    assert result.lines == ()
    assert result.text == ""


def test_polygons_keep_their_outline() -> None:
    page = _page((20, 20, 220, 40), (20, 20, 40, 90))
    result = _fake().read(page, Options(det=DetOptions(box_type="polygon")))
    assert len(result.lines) == 1
    assert len(result.lines[0].outline_px) > 4
    assert len(result.lines[0].quad_px) == 4


def test_dropped_lines_are_counted() -> None:
    page = _page((20, 20, 220, 40), (20, 80, 60, 100))
    everything = _fake().read(page)
    scores = sorted(line.rec_score for line in everything.lines)
    result = _fake().read(page, Options(rec=RecOptions(drop_score=sum(scores) / 2)))
    assert len(everything.lines) == 2
    assert everything.filtered == 0
    assert len(result.lines) == 1
    assert result.filtered == 1


def test_options_of_a_call_do_not_reach_the_next() -> None:
    engine = _fake()
    page = _page((20, 20, 220, 40))
    first = engine.read(page)
    assert engine.read(page, Options(det=DetOptions(unclip_ratio=3.0))) != first
    assert engine.read(page) == first


def test_the_page_is_not_written_to() -> None:
    page = _page((20, 20, 220, 40))
    before = page.copy()
    _fake().read(page)
    np.testing.assert_array_equal(page, before)


def test_lines_are_turned_when_the_classifier_says_so() -> None:
    def always(images: NDArray[np.uint8], _: NDArray[np.int32]) -> F32Array:
        return np.tile(np.array([[0.05, 0.95]], np.float32), (len(images), 1))

    seen: list[ImageBgr] = []

    def rec(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        seen.append(images.copy())
        return _one_letter(images, content_px)

    page = _page((20, 20, 220, 40))
    page[20:40, 20:60] = RED
    options = Options(cls=ClsOptions(enabled=True))
    plain, turned = _fake(rec=rec), _fake(rec=rec, cls=always)
    assert plain.read(page).lines[0].angle == 0
    assert turned.read(page, options).lines[0].angle == 180
    assert turned.read(page, replace(options, cls=ClsOptions(enabled=True, thresh=0.99))).lines[0].angle == 0
    upright, flipped, unsure = (
        np.flatnonzero((image[0, 24, :, 2] > 200) & (image[0, 24, :, 0] < 50)) for image in seen
    )
    assert upright.mean() < flipped.mean()
    np.testing.assert_array_equal(upright, unsure)


def test_a_classifier_that_was_not_loaded_is_refused() -> None:
    with pytest.raises(OptionError, match=r"cls\.enabled"):
        _fake().read(_page((20, 20, 220, 40)), Options(cls=ClsOptions(enabled=True)))


@pytest.mark.parametrize(
    ("size", "options", "warning"),
    [
        ((600, 5000), DetOptions(limit_type="max", limit_side_px=960), "raise det.limit_side_px"),
        ((40, 8000), DetOptions(limit_type="min", limit_side_px=736, max_pixels=4_000_000), "det.max_pixels"),
    ],
)
def test_a_coarse_search_is_told(size: tuple[int, int], options: DetOptions, warning: str) -> None:
    result = _fake().read(_page(size=size), Options(det=options))
    assert len(result.warnings) == 1
    assert warning in result.warnings[0]


def test_detect_and_recognize_stand_alone() -> None:
    engine = _fake()
    found = engine.detect(_page((20, 80, 120, 100), (20, 20, 220, 40)))
    assert found.quads_px.shape == (2, 4, 2)
    assert found.quads_px[0, 0, 1] < found.quads_px[1, 0, 1]
    lines = engine.recognize([_page(size=(24, 100)), _page(size=(24, 50))])
    assert [line.text for line in lines] == ["a", "a"]
    assert lines[0].score > lines[1].score
    assert engine.recognize([]) == ()


def test_read_wants_exactly_one_page() -> None:
    page = _page((20, 20, 220, 40))
    with pytest.raises(InputError, match=r"more than one page.*Engine\.stream"):
        _fake().read([page, page])
    with pytest.raises(InputError, match="holds no page"):
        _fake().read([])
    assert len(_fake().read([page]).lines) == 1


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_stream_keeps_the_order(workers: int) -> None:
    pages = [_page((20, 20, 40 + 8 * number, 40)) for number in range(20)]
    engine = _fake()
    assert list(engine.stream(pages, workers=workers)) == [engine.read(page) for page in pages]


def test_stream_holds_few_pages() -> None:
    decoded = 0

    def pages() -> Iterator[ImageBgr]:
        nonlocal decoded
        for _ in range(100):
            decoded += 1
            yield _page((20, 20, 220, 40))

    results = _fake().stream(pages(), workers=2)
    next(results)
    assert decoded <= 5  # two being read, two ahead, and the one that was given out
    results.close()  # type: ignore[attr-defined]
    assert decoded <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ocr-onnx")]


def test_stream_goes_on_after_a_bad_input(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page = _page((20, 20, 220, 40))
    errors: list[OcrError] = []
    results = list(_fake().stream([page, str(tmp_path / "broken.png"), page], on_error=errors.append))
    assert len(results) == 2
    assert len(errors) == 1
    assert "broken.png" in str(errors[0])
    with pytest.raises(InputError, match=r"broken\.png"):
        list(_fake().stream([page, str(tmp_path / "broken.png"), page]))


def test_stream_refuses_a_negative_number_of_workers() -> None:
    with pytest.raises(OptionError, match="workers"):
        next(_fake().stream([_page()], workers=-1))


@pytest.mark.parametrize(("workers", "asked"), [(0, [3]), (5, [5]), (1, [])])
def test_pages_share_the_processor_but_the_last_has_it_alone(workers: int, asked: list[int]) -> None:
    shares: list[int] = []
    inside: list[str] = []

    def det(name: str, images: NDArray[np.uint8]) -> F32Array:
        inside.append(name)
        return _dark(images)

    def share(pages: int) -> Networks:
        shares.append(pages)
        return Networks(partial(det, "shared"), _one_letter, None)

    engine = _fake(det=partial(det, "alone"), share=share, pages_at_once=3)
    pages = [_page((20, 20, 60, 40))] * 4
    assert [result.lines for result in engine.stream(pages, workers=workers)] == [
        _fake().read(page).lines for page in pages
    ]
    assert shares == asked
    assert sorted(inside) == (["alone"] * 4 if workers == 1 else ["alone", "shared", "shared", "shared"])


def test_a_lone_page_of_a_stream_has_the_processor_alone() -> None:
    def never(*_: object) -> NoReturn:
        raise AssertionError

    def share(_: int) -> Networks:
        return Networks(never, never, None)

    assert len(list(_fake(share=share).stream(_page((20, 20, 60, 40))))) == 1


def test_a_fault_in_a_worker_reaches_the_caller() -> None:
    def fails(_: NDArray[np.uint8]) -> F32Array:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        list(_fake(det=fails).stream([_page()] * 3))


def test_own_models_and_dictionary(tiny_det: Path, tiny_rec: Path, tiny_cls: Path, tmp_path: Path) -> None:
    dictionary = tmp_path / "letters.txt"
    dictionary.write_bytes("甲\r\n乙\r\n".encode())
    own = ModelOptions(det=str(tiny_det), rec=str(tiny_rec), cls=str(tiny_cls), dictionary=str(dictionary))
    # hardly grown regions, as the tiny rec model averages whole columns
    options = Options(det=DetOptions(unclip_ratio=0.1), cls=ClsOptions(enabled=True))
    engine = Engine.load(own, threads=1, options=options)
    assert engine.charset == ("", "甲", "乙", " ")
    result = engine.read(_page((20, 20, 220, 40)))
    assert set(result.text) == {"甲"}
    assert result.provenance is not None
    assert [stage for stage, _ in result.provenance.models] == ["det", "rec", "cls"]
    assert result.provenance.provider == "CPUExecutionProvider"

    without = Engine.load(replace(own, dictionary="", cls=""), threads=1)
    assert without.charset == ("", "a", "b", " ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [("甲\n乙\n丙\n".encode(), "has 4 classes, but its dictionary makes 5"), (b"\xff\xfe\x00", "not UTF-8")],
)
def test_a_wrong_dictionary_is_refused(
    tiny_det: Path, tiny_rec: Path, tmp_path: Path, content: bytes, problem: str
) -> None:
    dictionary = tmp_path / "letters.txt"
    dictionary.write_bytes(content)
    own = ModelOptions(det=str(tiny_det), rec=str(tiny_rec), dictionary=str(dictionary))
    with pytest.raises(ModelContractError, match=problem):
        Engine.load(own)


def test_the_demo_page_is_read(mobile: Engine) -> None:
    lines = mobile.read(DEMO).text.splitlines()
    for text in ("登机牌", "BOARDING", "ZHANGQIWEI", "张祺伟", "ETKT7813699238489/1", "TAIYUAN"):
        assert text in lines


def test_reference_options_and_order_on_the_demo_page(mobile: Engine) -> None:
    options = Options(crop=CropOptions(order="reference"), rec=RecOptions(width="reference"))
    result = mobile.read(DEMO, options)
    tops = [line.quad_px[0][1] for line in result.lines]
    assert len(result.lines) == 32
    assert all(lower > upper - 10 for upper, lower in pairwise(tops))
    by_text = {line.text: line.quad_px for line in result.lines}
    # the reference document's own corners
    np.testing.assert_allclose(by_text["登机牌"], [(158, 27), (355, 23), (356, 70), (159, 73)], atol=3)
    np.testing.assert_allclose(by_text["姓名NAME"], [(66, 252), (174, 249), (174, 271), (66, 273)], atol=3)


def _rendered(*texts: str, turn: int = 0) -> Image.Image:
    picture = Image.new("RGB", (640, 60 * len(texts) + 40), "white")
    draw = ImageDraw.Draw(picture)
    for number, text in enumerate(texts):
        draw.text((30, 25 + 60 * number), text, fill="black", font=ImageFont.truetype(str(FONT), 32))
    return picture.rotate(turn, expand=True)


def test_rendered_text_is_read_and_spaces_are_kept(mobile: Engine) -> None:
    texts = ("The quick brown fox", "识别中文字符 2026", "e-mail: a@b.org")
    result = mobile.read(_rendered(*texts))
    assert result.text.splitlines()[0].split() == texts[0].split()
    assert result.text.splitlines()[1].replace(" ", "") == texts[1].replace(" ", "")
    assert all(line.rec_min_score <= line.rec_score for line in result.lines)


def test_the_classifier_turns_an_upside_down_page() -> None:
    engine = Engine.load("mobile", threads=2, options=Options(cls=ClsOptions(enabled=True)))
    result = engine.read(_rendered("Upside down text", "登机口于起飞前关闭", turn=180))
    assert {line.angle for line in result.lines} == {180}
    assert {line.text.replace(" ", "") for line in result.lines} == {"Upsidedowntext", "登机口于起飞前关闭"}


def test_threads_and_concurrency_do_not_change_a_result(mobile: Engine) -> None:
    expected = mobile.read(DEMO)
    eight = Engine.load("mobile", threads=8).read(DEMO)
    assert eight.lines == expected.lines
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: mobile.read(DEMO), range(8)):
            assert result == expected


def test_lanes_do_not_change_a_result(mobile: Engine) -> None:
    assert mobile.rec_lanes is not None
    assert mobile.rec_lanes.count == 2
    assert replace(mobile, rec_lanes=None).read(DEMO) == mobile.read(DEMO)
    assert Engine.load("mobile", threads=1).rec_lanes is None


def test_a_stream_does_not_change_a_result(mobile: Engine) -> None:
    expected = mobile.read(DEMO)
    for workers in (0, 1, 2, 3):
        assert list(mobile.stream([DEMO] * 3, workers=workers)) == [expected] * 3
    turning = Options(cls=ClsOptions(enabled=True))
    with_cls = Engine.load("mobile", threads=2, options=turning)
    assert list(with_cls.stream([DEMO] * 2)) == [with_cls.read(DEMO)] * 2
    assert (mobile.pages_at_once, Engine.load("mobile", threads=1).pages_at_once) == (2, 1)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_batch_size_does_not_change_a_result(mobile: Engine, batch_size: int) -> None:
    assert mobile.read(DEMO, Options(rec=RecOptions(batch_size=batch_size))).lines == mobile.read(DEMO).lines


def test_an_engine_and_its_results_survive_pickling(mobile: Engine) -> None:
    result = mobile.read(DEMO)
    assert pickle.loads(pickle.dumps(result)) == result
    assert pickle.loads(pickle.dumps(mobile)).read(DEMO) == result


def test_every_door_gives_the_same_result(mobile: Engine) -> None:
    doors: list[Callable[[], object]] = [
        lambda: DEMO,
        lambda: str(DEMO),
        DEMO.read_bytes,
        lambda: Image.open(DEMO),
        lambda: {"img": str(DEMO)},
    ]
    results: list[PageResult] = [mobile.read(door()) for door in doors]  # type: ignore[arg-type]
    assert len({result.lines for result in results}) == 1


def test_input_options_reach_the_inputs() -> None:
    with pytest.raises(InputError):
        _fake().read(DEMO, Options(input=InputOptions(max_pixels=100)))


def test_a_classifier_given_but_not_enabled_is_refused(tiny_cls: Path) -> None:
    with pytest.raises(OptionError, match=r"models\.cls"):
        Engine.load(ModelOptions(cls=str(tiny_cls)))


@pytest.mark.parametrize("workers", [1, 3])
def test_pages_before_a_bad_one_still_come(tmp_path: Path, workers: int) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page = _page((20, 20, 220, 40))
    results: list[PageResult] = []
    with pytest.raises(InputError, match=r"broken\.png"):
        results.extend(_fake().stream([page, page, str(tmp_path / "broken.png"), page], workers=workers))
    # list.extend keeps what came before the error
    assert len(results) == 2


def test_a_page_that_a_model_fails_on_is_reported_and_the_others_go_on() -> None:
    def fails_on_red(images: NDArray[np.uint8]) -> F32Array:
        if (images[0, 0, 0] == RED).all():
            raise ModelContractError("det", "failed", "give another")
        return _dark(images)

    good, bad = _page((20, 20, 220, 40)), _page()
    bad[:] = RED
    errors: list[OcrError] = []
    engine = _fake(det=fails_on_red)
    assert len(list(engine.stream([good, bad, good], on_error=errors.append))) == 2
    assert [str(error) for error in errors] == ["det: failed; give another"]
    with pytest.raises(ModelContractError):
        list(engine.stream([good, bad, good]))


def test_stream_refuses_options_before_the_first_page() -> None:
    with pytest.raises(OptionError, match=r"cls\.enabled"):
        _fake().stream([_page()], options=Options(cls=ClsOptions(enabled=True)))
    with pytest.raises(OptionError, match="are a DetOptions, not Options"):
        _fake().read(_page(), DetOptions())  # type: ignore[arg-type]


def test_regions_that_nobody_looked_at_are_told() -> None:
    page = _page(*((20, top, 220, top + 10) for top in range(20, 120, 30)))
    assert _fake().read(page).warnings == ()
    result = _fake().read(page, Options(det=DetOptions(max_candidates=3)))
    assert result.warnings == ("1 possible regions were not looked at; raise det.max_candidates",)


def test_a_strip_of_one_pixel_is_bounded() -> None:
    seen: list[int] = []

    def rec(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        seen.append(images.shape[2])
        return _one_letter(images, content_px)

    _fake(rec=rec).recognize(_page(size=(1, 100_000)))
    assert sum(seen) < 40_000
