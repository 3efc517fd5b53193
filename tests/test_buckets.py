"""Every shape that the stages make has its bucket or is an outlier by rule, and no answer depends on it."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ocr_onnx import classify, detect, recognize, search
from ocr_onnx.manifest import STAGES, Stage
from ocr_onnx.options import ClsOptions, DetOptions, RecOptions, RuntimeOptions, WidthRule
from ocr_onnx.runtime import Session, TensorInfo, buckets
from ocr_onnx.runtime.buckets import GROUPS, Group, Shape

IMAGES = TensorInfo("image", "tensor(uint8)", (None, None, None, 3))
WIDTHS = TensorInfo("valid_w", "tensor(int32)", (None,))
FLOATS = TensorInfo("x", "tensor(float)", (None, 3, None, None))

EVERY_GROUP = [(stage, group) for stage in STAGES for group in GROUPS[stage]]


def _parsed(text: str) -> dict[str, tuple[int, ...]]:
    """Read a profile as TensorRT's provider does: inputs at commas, sizes at x."""
    pairs = (part.split(":") for part in text.split(","))
    return {name: tuple(map(int, sizes.split("x"))) for name, sizes in pairs}


def _group(stage: Stage, name: str) -> Group:
    return next(group for group in GROUPS[stage] if group.name == name)


def _check_bucket(stage: Stage, shape: Shape) -> None:
    bucket = buckets.bucket_of(stage, shape)
    assert bucket is not None
    group = _group(stage, bucket.group)
    assert group.holds(Shape(bucket.batch, shape.h, shape.w))
    assert bucket.batch >= min(shape.n, group.max.n)
    assert bucket.batch == group.max.n or bucket.batch < 2 * shape.n


def _det_shapes(width_px: int, height_px: int, scale: float, options: DetOptions) -> set[Shape]:
    """Return what `search.probability_map` hands to the network for a page of this size."""
    (w, h), _ = detect.input_size(width_px, height_px, scale, options.max_pixels)
    shapes = set()

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shapes.add(Shape(*images.shape[:3]))
        return np.zeros(images.shape[:3], np.float32)

    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (h, w, 3))  # without memory of its own
    search.probability_map(image, infer, options.tile_pixels)
    return shapes


@given(
    width_px=st.integers(1, 9000),
    height_px=st.integers(1, 9000),
    finer=st.floats(1, search.MAX_ENLARGEMENT),
)
def test_pages_at_the_default_limits_have_a_bucket_unless_they_are_long_strips(
    width_px: int, height_px: int, finer: float
) -> None:
    options = DetOptions()
    scale = detect.first_scale(width_px, height_px, options) * finer
    assume(max(width_px, height_px) * scale <= 8000)
    for shape in _det_shapes(width_px, height_px, scale, options):
        assert shape.n == 1
        assert shape.h % detect.STRIDE_PX == shape.w % detect.STRIDE_PX == 0
        if max(shape.h, shape.w) > options.limit_side_px:
            assert buckets.bucket_of("det", shape) is None
        else:
            _check_bucket("det", shape)


@given(
    width_px=st.integers(1, 5000),
    height_px=st.integers(1, 5000),
    side_px=st.integers(32, 4000),
    tile_pixels=st.integers(256 * 256, 6_000_000),
)
def test_pages_at_other_limits_have_a_bucket_or_are_outliers_by_their_sides(
    width_px: int, height_px: int, side_px: int, tile_pixels: int
) -> None:
    options = DetOptions(limit_type="max", limit_side_px=side_px, tile_pixels=tile_pixels)
    scale = detect.first_scale(width_px, height_px, options)
    for shape in _det_shapes(width_px, height_px, scale, options):
        if max(shape.h, shape.w) > 1600 or min(shape.h, shape.w) > 992:
            assert buckets.bucket_of("det", shape) is None
        else:
            _check_bucket("det", shape)


def test_the_largest_square_of_a_tile_is_in_the_standard_group() -> None:
    side_px = math.isqrt(DetOptions().tile_pixels) // detect.STRIDE_PX * detect.STRIDE_PX
    bucket = buckets.bucket_of("det", Shape(1, side_px, side_px))
    assert bucket is not None
    assert bucket.group == "det-std"


@given(
    sizes=st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 120)), min_size=1, max_size=8),
    rule=st.sampled_from(("tight", "reference")),
    max_width_px=st.integers(320, 4000),
    batch_size=st.integers(1, 40),
)
def test_lines_have_a_bucket_unless_they_may_be_wider_than_3200(
    sizes: list[tuple[int, int]], rule: WidthRule, max_width_px: int, batch_size: int
) -> None:
    def infer(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> recognize.CtcSteps:
        shape = Shape(*images.shape[:3])
        assert content_px.shape == (shape.n,)
        if shape.w > 3200:
            assert max_width_px > 3200
            assert buckets.bucket_of("rec", shape) is None
        else:
            _check_bucket("rec", shape)
        steps = (shape.n, images.shape[2] // 8)
        return recognize.CtcSteps(np.zeros(steps, np.int64), np.zeros(steps, np.float32))

    lines = [np.zeros((height, width, 3), np.uint8) for width, height in sizes]
    recognize.infer_lines(lines, infer, RecOptions(rule, batch_size, max_width_px))


@given(count=st.integers(1, 80), batch_size=st.integers(1, 80))
def test_lines_of_the_classifier_have_a_bucket(count: int, batch_size: int) -> None:
    def infer(images: NDArray[np.uint8], _: NDArray[np.int32]) -> NDArray[np.float32]:
        _check_bucket("cls", Shape(*images.shape[:3]))
        return np.zeros((len(images), 2), np.float32)

    lines = [np.zeros((20, 60, 3), np.uint8)] * count
    classify.angles(lines, infer, ClsOptions(enabled=True, batch_size=batch_size))


@given(n=st.integers(1, 2000), h=st.integers(1, 5000), w=st.integers(1, 5000), stage=st.sampled_from(STAGES))
def test_any_shape_has_a_bucket_inside_a_profile_or_none(n: int, h: int, w: int, stage: Stage) -> None:
    shape = Shape(n, h, w)
    if any(group.holds(Shape(1, h, w)) for group in GROUPS[stage]):
        _check_bucket(stage, shape)
    else:
        assert buckets.bucket_of(stage, shape) is None


@pytest.mark.parametrize(("stage", "group"), EVERY_GROUP)
def test_groups_are_ranges(stage: Stage, group: Group) -> None:
    assert group.min.n == 1
    assert group.holds(group.min)
    assert group.holds(group.opt)
    assert group.holds(group.max)
    assert group.name.split("-")[0] == stage


def test_group_names_are_unique() -> None:
    names = [group.name for _, group in EVERY_GROUP]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "inputs", [[IMAGES], [IMAGES, WIDTHS], [FLOATS]], ids=["image", "image and valid_w", "floats"]
)
@pytest.mark.parametrize(("stage", "group"), EVERY_GROUP)
def test_profiles_read_back(stage: Stage, group: Group, inputs: list[TensorInfo]) -> None:
    del stage
    profile = buckets.profile(group, inputs)
    for text, shape in zip(profile, (group.min, group.opt, group.max), strict=True):
        sizes = _parsed(text)
        assert list(sizes) == [one.name for one in inputs]
        for one in inputs:
            whole = {
                "image": (shape.n, shape.h, shape.w, 3),
                "x": (shape.n, 3, shape.h, shape.w),
                "valid_w": (shape.n,),
            }
            assert sizes[one.name] == whole[one.name]


def test_a_profile_looks_as_the_provider_wants_it() -> None:
    assert buckets.profile(_group("rec", "rec-s"), [IMAGES, WIDTHS]) == (
        "image:1x48x160x3,valid_w:1",
        "image:16x48x320x3,valid_w:16",
        "image:32x48x320x3,valid_w:32",
    )
    assert buckets.profile(_group("det", "det-std"), [FLOATS]).opt == "x:1x3x736x736"


@pytest.mark.parametrize("stage", STAGES)
def test_the_warm_up_visits_every_group_and_only_groups(stage: Stage) -> None:
    shapes = buckets.warm_up_shapes(stage)
    assert len(set(shapes)) == len(shapes)
    visited = [buckets.group_of(stage, shape) for shape in shapes]
    assert None not in visited
    assert set(visited) == set(GROUPS[stage])
    for group in GROUPS[stage]:
        assert {group.min, group.opt, group.max} <= set(shapes)


def test_the_warm_up_visits_every_batch_that_lines_come_in() -> None:
    batches = {shape.n for shape in buckets.warm_up_shapes("rec") if shape.w == 320}
    assert batches == {1, 2, 4, 8, 16, 32}


@given(n=st.integers(1, 200), most=st.integers(1, 64))
def test_batches_are_padded_to_powers_of_two(n: int, most: int) -> None:
    padded = buckets.padded_batch(n, most)
    assert padded == most or (padded & (padded - 1) == 0 and padded < most)
    assert padded >= min(n, most)


@given(n=st.integers(1, 100), most=st.integers(1, 40), seed=st.integers(0, 5))
def test_runs_of_a_batch_give_what_the_batch_gives(n: int, most: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    feeds: buckets.Feeds = {
        "image": random.integers(0, 256, (n, 4, 6, 3), dtype=np.uint8),
        "valid_w": random.integers(1, 7, n, dtype=np.int32),
    }
    seen = []

    def infer(feeds: buckets.Feeds) -> list[NDArray[np.int64]]:
        seen.append(len(feeds["image"]))
        sums = feeds["image"].sum(axis=(1, 3), dtype=np.int64)
        return [sums, sums.sum(axis=1) * feeds["valid_w"]]

    together = infer(feeds)
    seen.clear()
    apart = buckets.joined([(infer(run), rows) for run, rows in buckets.in_runs(feeds, most)])
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(batch == buckets.padded_batch(batch, most) for batch in seen)


@pytest.mark.parametrize("n", [1, 3, 6, 33])
def test_a_padded_batch_of_a_model_gives_the_same_bits(tiny_rec: Path, n: int) -> None:
    session = Session(tiny_rec, RuntimeOptions(threads=1))
    x = np.random.default_rng(n).uniform(-1, 1, (n, 3, 48, 160)).astype(np.float32)
    whole = session({"x": x})
    runs = [(session(run), rows) for run, rows in buckets.in_runs({"x": x}, 32)]
    for one, other in zip(whole, buckets.joined(runs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_embedded_recognizer_gives_the_same_for_a_padded_batch() -> None:
    model = Path(__file__).parent.parent / "models/ppocrv4-mobile-rec.onnx"
    session = Session(model, RuntimeOptions(threads=1))
    random = np.random.default_rng(0)
    feeds: buckets.Feeds = {
        "image": random.integers(0, 256, (3, 48, 160, 3), dtype=np.uint8),
        "valid_w": np.array([160, 90, 33], np.int32),
    }
    index, prob = session(feeds, ("index", "prob"))
    runs = [(session(run, ("index", "prob")), rows) for run, rows in buckets.in_runs(feeds, 32)]
    padded_index, padded_prob = buckets.joined(runs)
    np.testing.assert_array_equal(index, padded_index)
    np.testing.assert_allclose(prob, padded_prob, atol=1e-5)


def test_shapes_are_read_from_both_layouts() -> None:
    images: buckets.Feeds = {"valid_w": np.zeros(5, np.int32), "image": np.zeros((5, 48, 320, 3), np.uint8)}
    assert buckets.shape_of(images) == Shape(5, 48, 320)
    assert buckets.shape_of({"x": np.zeros((5, 3, 48, 320), np.float32)}) == Shape(5, 48, 320)
