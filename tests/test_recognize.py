"""The rec stage against a plain second implementation, and what it must not depend on."""

import math
import threading
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ocr_onnx import contract, recognize
from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.errors import ModelContractError
from ocr_onnx.options import RecOptions, RuntimeOptions, WidthRule
from ocr_onnx.recognize import CtcSteps, Lanes, RecognizedLine
from ocr_onnx.runtime import Session

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "ppocrv4-mobile-rec.onnx"
FONT = ROOT / "ocr_onnx" / "fonts" / "wqy-microhei-subset.ttf"

some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
widths = st.integers(1, 4000)
heights = st.integers(1, 300)
rules: st.SearchStrategy[WidthRule] = st.sampled_from(["tight", "reference"])
LETTERS = ("", *"abcdefghijklmnopqrstuvwxyz", " ")


def lines_of(seed: int, count: int, widest: int = 500) -> list[ImageBgr]:
    rng = np.random.default_rng(seed)
    lines = [
        rng.integers(0, 256, (rng.integers(1, 70), rng.integers(1, widest), 3), dtype=np.uint8)
        for _ in range(count)
    ]
    for line in lines:
        line.setflags(write=False)
    return lines


def steps_of(labels: list[int], probs: list[float] | None = None) -> CtcSteps:
    return CtcSteps(np.array(labels, np.int64), np.array(probs if probs else [0.5] * len(labels), np.float32))


class SeeThrough:
    """A network whose steps of 8 px are a hash of exactly the pixels the contract lets it see."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []  # (lines, tensor width)

    def __call__(self, images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        n, height, width, channels = images.shape
        assert (height, channels) == (48, 3)
        self.runs.append((n, width))
        seen = recognize.normalise(images, content_px)
        whole = np.pad(seen, [(0, 0), (0, 0), (0, 0), (0, -width % 8)])
        cells = whole.reshape(n, 3, 48, -1, 8).transpose(0, 3, 1, 2, 4).reshape(n, -1, 3 * 48 * 8)
        hashes = (cells * np.arange(1, 3 * 48 * 8 + 1)).sum(axis=2, dtype=np.float64)
        labels = (np.abs(hashes) * 7 + width + np.asarray(content_px)[:, None]).astype(np.int64) % len(
            LETTERS
        )
        return CtcSteps(labels, (1 / (1 + np.abs(hashes) % 5)).astype(np.float32))


def never(_images: NDArray[np.uint8], _content_px: NDArray[np.int32]) -> CtcSteps:
    raise ModelContractError("this network", "is never to be called", "call the other")


# --- the second implementation -------------------------------------------------------------------


def plain_decode(steps: CtcSteps, charset: tuple[str, ...]) -> RecognizedLine:
    text, scores, step = "", [], 0
    for label, run in groupby(steps.labels.tolist()):
        if label:
            text += charset[label]
            scores.append(float(steps.probs[step]))
        step += len(list(run))
    return (
        RecognizedLine(text, sum(scores) / len(scores), min(scores)) if scores else RecognizedLine("", 0, 0)
    )


def plain_tensor(line: ImageBgr, width: int) -> F32Array:
    """Return PaddleX's tensor for a line: 48 px high, in -1..1, zeros to the right."""
    height_px, width_px = line.shape[:2]
    content = min(width, math.ceil(48 * (width_px / height_px)))
    resized = cv2.resize(line, (content, 48))
    tensor = np.zeros((3, 48, width), np.float32)
    for channel in range(3):
        tensor[channel, :, :content] = (resized[..., channel] / 255 - 0.5) / 0.5
    return tensor


# --- widths --------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(widths, heights)
def test_reference_width_is_paddlexs(width: int, height: int) -> None:
    ratio = max(320 / 48, width / height)
    assert recognize.tensor_width_px(width, height, "reference") == min(32_000, int(48 * ratio))
    assert recognize.content_width_px(width, height) == min(32_000, math.ceil(48 * (width / height)))


@settings(max_examples=200, deadline=None)
@given(widths, heights, st.integers(0, 200))
def test_tight_width_holds_the_line_and_never_shrinks_as_it_grows(width: int, height: int, more: int) -> None:
    tight = recognize.tensor_width_px(width, height, "tight")
    assert tight >= recognize.content_width_px(width, height)
    assert tight % 8 == 0
    assert recognize.tensor_width_px(width + more, height, "tight") >= tight
    assert tight < recognize.content_width_px(width, height) + 320  # no line pays for another


@some
@given(seeds, st.integers(1, 6), rules)
def test_the_network_sees_the_references_tensor(seed: int, count: int, rule: WidthRule) -> None:
    lines = lines_of(seed, count)
    tensors: list[F32Array] = []

    def infer(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        tensors.extend(recognize.normalise(images, content_px))
        return CtcSteps(np.zeros((len(images), 4), np.int64), np.zeros((len(images), 4), np.float32))

    for line in lines:
        # wide lines have their own tests
        assume(recognize.content_width_px(line.shape[1], line.shape[0]) < 3000)
        recognize.read_lines([line], infer, LETTERS, RecOptions(width=rule))
    for line, tensor in zip(lines, tensors, strict=True):
        width = recognize.tensor_width_px(line.shape[1], line.shape[0], rule)
        np.testing.assert_allclose(tensor, plain_tensor(line, width), atol=1e-6)


@some
@given(seeds, st.integers(1, 4), st.integers(1, 40))
def test_normalise_blackens_nothing_but_the_rest(seed: int, n: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 48, width, 3), dtype=np.uint8)
    content = rng.integers(0, width + 1, n).astype(np.int32)
    images.setflags(write=False)
    content.setflags(write=False)
    tensor = recognize.normalise(images, content)
    assert tensor.shape == (n, 3, 48, width)
    assert tensor.flags.c_contiguous
    for image, planes, px in zip(images, tensor, content, strict=True):
        np.testing.assert_allclose(
            planes[:, :, :px], image.transpose(2, 0, 1)[:, :, :px] / 127.5 - 1, atol=1e-6
        )
        assert not planes[:, :, px:].any()


# --- CTC -----------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4) | st.just(27), st.floats(0, 1, width=32)), max_size=60))
def test_decode_agrees_with_plain_loops(steps: list[tuple[int, float]]) -> None:
    found_steps = steps_of([label for label, _ in steps], [prob for _, prob in steps])
    for array in found_steps:
        array.setflags(write=False)
    found, plain = recognize.decode(found_steps, LETTERS), plain_decode(found_steps, LETTERS)
    assert found.text == plain.text
    assert found.score == pytest.approx(plain.score, abs=1e-6)
    assert found.min_score == pytest.approx(plain.min_score, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.text("abc ", max_size=20), st.data())
def test_any_alignment_of_a_text_decodes_to_it(text: str, data: st.DataObject) -> None:
    labels: list[int] = []
    previous = ""
    for character in text:
        gap = data.draw(st.integers(character == previous, 3))
        labels += [0] * gap + [LETTERS.index(character)] * data.draw(st.integers(1, 3))
        previous = character
    labels += [0] * data.draw(st.integers(0, 3))
    assert recognize.decode(steps_of(labels), LETTERS).text == text


def test_the_score_is_that_of_each_characters_first_step() -> None:
    found = recognize.decode(steps_of([0, 1, 1, 0, 1, 27, 27], [0.1, 0.5, 0.9, 0.1, 0.75, 1.0, 0.2]), LETTERS)
    assert found == RecognizedLine("aa ", 0.75, 0.5)
    assert recognize.decode(steps_of([0, 0, 0]), LETTERS) == RecognizedLine("", 0.0, 0.0)
    assert recognize.decode(steps_of([]), LETTERS) == RecognizedLine("", 0.0, 0.0)


@some
@given(seeds, st.integers(1, 3), st.integers(1, 20), st.integers(1, 9))
def test_reduction_keeps_the_best_class_of_each_step(seed: int, n: int, t: int, classes: int) -> None:
    probs = np.random.default_rng(seed).random((n, t, classes), np.float32)
    probs.setflags(write=False)
    found = recognize.reduce_probabilities(probs)
    for line in range(n):
        for step in range(t):
            row = probs[line, step].tolist()
            assert found.labels[line, step] == row.index(max(row))
            assert found.probs[line, step] == max(row)


# --- dictionaries --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_charset_reads_any_text_file(end: str, last: bool, mark: str) -> None:
    rows = ["a", "\u2028", "\x85", "\u3000", "\x0c", "登", '"', "é"]
    assert recognize.charset_of(mark + end.join(rows) + end * last) == ("", *rows, " ")


@some
@given(st.lists(st.characters(exclude_characters="\n\r\ufeff"), min_size=1, max_size=30))
def test_every_character_has_its_class(rows: list[str]) -> None:
    charset = recognize.charset_from({"character": "\n".join(rows)}, "m.onnx")
    assert charset == ("", *rows, " ")


def test_a_model_without_a_dictionary_says_what_to_give() -> None:
    with pytest.raises(ModelContractError, match=r"m\.onnx: has no dictionary.*--dict"):
        recognize.charset_from({"stage": "rec"}, "m.onnx")


# --- batches, neighbours, order ------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 18), rules, st.sampled_from([320, 333, 700, 3200]))
def test_a_line_depends_on_itself_alone(seed: int, count: int, rule: WidthRule, limit: int) -> None:
    lines = lines_of(seed, count, widest=200)
    options = RecOptions(width=rule, max_width_px=limit, batch_size=1)
    alone = [recognize.read_lines([line], SeeThrough(), LETTERS, options)[0] for line in lines]
    shuffled = np.random.default_rng(seed).permutation(count).tolist()
    for batch_size in (1, 4, 16):
        options = RecOptions(width=rule, max_width_px=limit, batch_size=batch_size)
        network = SeeThrough()
        assert recognize.read_lines(lines, network, LETTERS, options) == alone
        assert all(n <= batch_size and width <= max(limit, 320) for n, width in network.runs)
        found = recognize.read_lines([lines[k] for k in shuffled], network, LETTERS, options)
        assert found == [alone[k] for k in shuffled]
        for count in (2, 3):
            assert recognize.read_lines(lines, network, LETTERS, options, Lanes(network, count)) == alone


def test_equal_widths_share_runs() -> None:
    network = SeeThrough()
    lines = [np.zeros((48, width, 3), np.uint8) for width in (100, 900, 100, 900, 100)]
    recognize.read_lines(lines, network, LETTERS, RecOptions(batch_size=2, width="reference"))
    assert network.runs == [(2, 900), (2, 320), (1, 320)]


def test_lanes_run_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=10)  # breaks unless three runs are under way at once
    network = SeeThrough()

    def infer(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        meeting.wait()
        return network(images, content_px)

    lines = [np.full((48, width, 3), width % 251, np.uint8) for width in (100, 400, 900)]
    found = recognize.read_lines(lines, never, LETTERS, RecOptions(), Lanes(infer, 3))
    assert found == recognize.read_lines(lines, network, LETTERS, RecOptions())


def test_too_few_runs_for_all_lanes_go_one_by_one() -> None:
    network = SeeThrough()
    lines = [np.zeros((48, 100, 3), np.uint8)] * 2
    recognize.read_lines(lines, network, LETTERS, RecOptions(), Lanes(never, 2))
    assert network.runs == [(2, 160)]


def test_an_error_in_a_lane_comes_out() -> None:
    lines = [np.zeros((48, width, 3), np.uint8) for width in (100, 400)]
    with pytest.raises(ModelContractError, match="never to be called"):
        recognize.read_lines(lines, SeeThrough(), LETTERS, RecOptions(), Lanes(never, 2))


@pytest.mark.parametrize("rule", ["tight", "reference"])
@pytest.mark.parametrize("shape", [(1, 1), (20_000, 1), (1, 1000), (1, 5000)])
def test_extreme_lines(shape: tuple[int, int], rule: WidthRule) -> None:
    network = SeeThrough()
    found = recognize.read_lines([np.zeros((*shape, 3), np.uint8)], network, LETTERS, RecOptions(width=rule))
    assert len(found) == 1
    assert all(width <= 3200 for _, width in network.runs)


# --- wide lines ----------------------------------------------------------------------------------

CELL_PX = 8  # one time step


def painted_line(labels: list[int]) -> ImageBgr:
    """Draw time steps as 8 px cells whose gray value is the class: 255 is blank."""
    row = np.array([label or 255 for label in labels], np.uint8).repeat(CELL_PX)
    return np.broadcast_to(row[None, :, None], (48, len(row), 3)).copy()


def read_cells(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
    """Read `painted_line` back; what is cut at an end or right of the content is blank."""
    n, _, width, _ = images.shape
    cells = np.full((n, -(-width // CELL_PX)), 0, np.int64)
    for image, px, row in zip(images, content_px, cells, strict=True):
        seen = image[24, : px // CELL_PX * CELL_PX : CELL_PX, 0].astype(np.int64)
        row[: len(seen)] = np.where(seen == 255, 0, seen)
    return CtcSteps(cells, np.full(cells.shape, 0.5, np.float32))


texts = st.text(alphabet=LETTERS[1:], min_size=30, max_size=260)


@settings(max_examples=80, deadline=None)
@given(texts, st.data(), rules, st.sampled_from([320, 350, 640, 1000]))
def test_no_seam_doubles_or_loses_a_character(
    text: str, data: st.DataObject, rule: WidthRule, limit: int
) -> None:
    rng = np.random.default_rng(data.draw(seeds))
    labels: list[int] = []
    for character in text:
        labels += [0] * int(rng.integers(1, 4)) + [LETTERS.index(character)] * int(rng.integers(1, 4))
    options = RecOptions(width=rule, max_width_px=limit)
    found = recognize.read_lines([painted_line(labels)], read_cells, LETTERS, options)[0]
    assert found.text == text


@settings(max_examples=80, deadline=None)
@given(texts, seeds, st.sampled_from([320, 640, 1000]))
def test_a_seam_bears_steps_that_shift_and_ends_that_are_cut(text: str, seed: int, limit: int) -> None:
    """A window's own view moves a character by a step and garbles those near its ends."""
    rng = np.random.default_rng(seed)
    labels: list[int] = []
    for character in text:
        labels += [0] * int(rng.integers(6, 9)) + [LETTERS.index(character)]
    labels += [0] * 3

    def infer(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        exact, probs = read_cells(images, content_px)
        moved = np.zeros_like(exact)
        for row, target, px in zip(exact, moved, content_px, strict=True):
            last = px // CELL_PX - 1
            for step in np.flatnonzero(row):
                if 4 <= step <= last - 4 or px < limit // 32 * 32:
                    target[min(max(step + int(rng.integers(-1, 2)), 0), last)] = row[step]
        return CtcSteps(moved, probs)

    found = recognize.read_lines([painted_line(labels)], infer, LETTERS, RecOptions(max_width_px=limit))[0]
    inner = slice(2, -2)  # the line's own two ends were garbled as well
    assert text[inner] in found.text
    assert len(found.text) <= len(text)


# --- the real network ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def charset() -> tuple[str, ...]:
    return recognize.charset_from(Session(MODEL, RuntimeOptions(threads=1)).metadata, str(MODEL))


def infer_with(threads: int, charset: tuple[str, ...]) -> recognize.Infer:
    return contract.rec_infer(Session(MODEL, RuntimeOptions(threads=threads)), str(MODEL), len(charset))


def drawn(text: str, size: int = 36) -> ImageBgr:
    """Write a text in black on white, as a crop 1.3 times as high as its letters."""
    font = ImageFont.truetype(str(FONT), size)
    picture = Image.new("RGB", (math.ceil(font.getlength(text)) + 12, round(size * 1.3)), "white")
    ImageDraw.Draw(picture).text((6, 1), text, "black", font)
    return np.array(picture)[:, :, ::-1].copy()


SENTENCES = (
    "登机口于起飞前10分钟关闭",
    "GATES CLOSE 10 MINUTES BEFORE",
    "ETKT7813699238489/1",
    "航班FLIGHT",
    "张祺伟",
    "a",
    "ZHANGQIWEI",
    "身份识别",
    "票价FARE",
    "03DEC",
    "BOARDING PASS",
    "福州",
)


@pytest.mark.parametrize("rule", ["tight", "reference"])
def test_real_results_are_identical_for_any_batch_order_and_threads(
    charset: tuple[str, ...], rule: WidthRule
) -> None:
    lines = [drawn(text, 18 + 5 * (k % 5)) for k, text in enumerate(SENTENCES)] + [drawn("目的地TO", 30)] * 3
    infer = infer_with(1, charset)
    options = [RecOptions(width=rule, batch_size=size) for size in (1, 4, 16)]
    alone = recognize.read_lines(lines, infer, charset, options[0])
    assert [line.text for line in alone] == [*SENTENCES, *["目的地TO"] * 3]
    assert min(line.score for line in alone) > 0.8
    # bit for bit: every score too
    assert recognize.read_lines(lines, infer, charset, options[1]) == alone
    assert recognize.read_lines(lines[::-1], infer, charset, options[2]) == alone[::-1]
    assert recognize.read_lines(lines, infer_with(8, charset), charset, options[2]) == alone


@pytest.mark.parametrize("limit", [640, 3200])
def test_a_long_line_reads_as_its_parts(charset: tuple[str, ...], limit: int) -> None:
    infer, options = infer_with(2, charset), RecOptions(max_width_px=limit)
    parts = [SENTENCES[k % len(SENTENCES)] for k in range(39)]
    line = drawn("  ".join(parts), 37)
    assert line.shape[0] == 48
    assert line.shape[1] > 9000
    found = recognize.read_lines([line], infer, charset, options)[0]
    assert found.text.replace(" ", "") == "".join(parts).replace(" ", "")
    assert found.score > 0.9


def test_spaces_between_words_are_read(charset: tuple[str, ...]) -> None:
    line = drawn("the quick brown fox", 30)
    assert recognize.read_lines([line], infer_with(1, charset), charset, RecOptions())[0].text == (
        "the quick brown fox"
    )
