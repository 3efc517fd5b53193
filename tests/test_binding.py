"""Device buffers, run on the processor through the same code."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_onnx.errors import ModelContractError
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session, wheels
from ocr_onnx.runtime.binding import Array, BoundSession

MODELS = Path(__file__).parents[1] / "models"


def _lines(seed: int, rows: int, width: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (rows, 48, width, 3), np.uint8)
    return {"image": images, "valid_w": random.integers(1, width + 1, rows, np.int32)}


@pytest.fixture(scope="module")
def rec() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        MODELS / "ppocrv4-mobile-rec.onnx", options, providers=["CPUExecutionProvider"]
    )


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(1, 3), st.sampled_from([32, 64, 96])),
        min_size=1,
        max_size=8,
    )
)
def test_results_are_those_of_a_plain_run(
    rec: onnxruntime.InferenceSession, calls: list[tuple[int, int, int]]
) -> None:
    bound = BoundSession(rec, "cpu", 0, max_bytes=60_000)
    steps = ("index", "prob")
    found = [(bound.run(steps, _lines(*call)), rec.run(steps, _lines(*call))) for call in calls]
    assert bound.held_bytes <= 60_000
    for ours, theirs in found:  # after all runs: no result lies in a buffer that a later run wrote to
        for our, their in zip(ours, theirs, strict=True):
            assert our.dtype == their.dtype
            np.testing.assert_array_equal(our, their)


def test_all_outputs_come_unless_named(rec: onnxruntime.InferenceSession) -> None:
    bound, feeds = BoundSession(rec, "cpu", 0), _lines(1, 2, 64)
    for _ in range(2):
        for ours, theirs in zip(bound.run(None, feeds), rec.run(None, feeds), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(bound.run(["prob"], feeds), rec.run(["prob"], feeds), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_view_that_is_not_contiguous_is_taken(rec: onnxruntime.InferenceSession) -> None:
    bound, feeds = BoundSession(rec, "cpu", 0), _lines(1, 2, 64)
    flipped = {**feeds, "image": feeds["image"][:, :, ::-1]}
    for _ in range(2):
        np.testing.assert_array_equal(bound.run(["prob"], flipped)[0], rec.run(["prob"], flipped)[0])


class _Counted:
    """A session that counts its runs and the bindings that were made for it."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.bindings = 0
        self.outputs: list[list[str]] = []

    def get_outputs(self) -> object:
        return self._session.get_outputs()

    def io_binding(self) -> object:
        self.bindings += 1
        return self._session.io_binding()

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        return list(self._session.run(outputs, feeds))

    def run_with_iobinding(self, binding: onnxruntime.IOBinding) -> None:
        self._session.run_with_iobinding(binding)
        self.outputs.append([value.data_type() for value in binding.get_outputs()])


def test_buffers_of_a_shape_are_reused_and_the_oldest_go_first(rec: onnxruntime.InferenceSession) -> None:
    one = sum(array.nbytes for array in _lines(1, 1, 32).values()) + 4 * (8 + 4)  # index and prob of 4 steps
    counted = _Counted(rec)
    bound = BoundSession(counted, "cpu", 0, max_bytes=int(one * 3.5))
    steps = ("index", "prob")
    for seed in range(3):
        bound.run(steps, _lines(seed, 1, 32))
    assert (counted.bindings, bound.held_bytes) == (1, one)
    bound.run(steps, _lines(1, 2, 32))  # twice the size: both fit
    assert counted.bindings == 2
    bound.run(steps, _lines(1, 1, 32))  # used last, so the next to come drives the other out
    bound.run(steps, _lines(1, 1, 64))
    assert counted.bindings == 3
    bound.run(steps, _lines(1, 1, 32))
    assert counted.bindings == 3
    bound.run(steps, _lines(1, 2, 32))
    assert counted.bindings == 4
    assert all(types == ["tensor(int64)", "tensor(float)"] for types in counted.outputs)


def test_an_outlier_leaves_the_buffers_of_others_alone(rec: onnxruntime.InferenceSession) -> None:
    counted = _Counted(rec)
    bound = BoundSession(counted, "cpu", 0, max_bytes=6_000)
    for rows in (1, 4, 4, 1):
        bound.run(("index",), _lines(1, rows, 32))
    assert counted.bindings == 1
    assert 0 < bound.held_bytes <= 6_000
    for _ in range(2):  # its input would fit, but not with all probabilities of its steps beside it
        bound.run(None, _lines(1, 1, 32))
    bound.run(("index",), _lines(1, 1, 32))
    assert counted.bindings == 3
    assert 0 < bound.held_bytes <= 6_000


def test_a_run_that_fails_leaves_the_next_alone(rec: onnxruntime.InferenceSession) -> None:
    bound, feeds = BoundSession(rec, "cpu", 0), _lines(1, 1, 32)
    expected = rec.run(("prob",), feeds)
    for _ in range(2):
        with pytest.raises(wheels.ort_errors()):
            bound.run(("prob",), {**feeds, "image": feeds["image"][:, :47]})
        with pytest.raises(wheels.ort_errors()):
            bound.run(("prob",), {"other": feeds["image"]})
        np.testing.assert_array_equal(bound.run(("prob",), feeds)[0], expected[0])


def test_a_session_on_cuda_runs_through_buffers(tiny_rec: Path, pretended_gpus: list[int]) -> None:
    feeds = {"x": np.random.default_rng(1).random((2, 3, 48, 64), np.float32)}
    expected = Session(tiny_rec, RuntimeOptions("cpu", threads=1))(feeds)
    assert pretended_gpus == []
    session = Session(tiny_rec, RuntimeOptions("cuda:1"))
    for _ in range(2):
        np.testing.assert_array_equal(session(feeds)[0], expected[0])
    with pytest.raises(ModelContractError, match=r"tiny-rec\.onnx: failed on x \[2, 3, 47, 64\]"):
        session({"x": feeds["x"][:, :, :47]})
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: session(feeds), range(16)):
            np.testing.assert_array_equal(found[0], expected[0])
    assert pretended_gpus == [1]
