"""Calls that share runs, with an inference function whose runs end when the test says so."""

import multiprocessing
import os
import pickle
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_onnx.errors import ModelContractError, OcrError
from ocr_onnx.gather import Array, Gathered

SECONDS = 60  # that a test waits for what should come at once
BAD = 13


def _rows(*values: int, width: int = 2) -> Array:
    return np.repeat(np.array(values, np.int64)[:, None], width, axis=1)


def _double(rows: Array) -> Array:
    """Answer every row with twice its first value; refuse BAD."""
    if (rows == BAD).any():
        raise ModelContractError("rec.onnx", f"failed on {rows.shape}", "do something")
    return rows[:, 0] * 2


def _pick(found: Array, rows: slice) -> Array:
    return found[rows]


class _Stage:
    """Runs that begin where the test sees it, and end when it lets them."""

    def __init__(self) -> None:
        self._begun: queue.Queue[list[int]] = queue.Queue()
        self._ends: queue.Queue[None] = queue.Queue()

    def infer(self, rows: Array) -> Array:
        self._begun.put(rows[:, 0].tolist())
        self._ends.get(timeout=SECONDS)
        return _double(rows)

    def next(self) -> list[int]:
        """Wait for the next run to begin; return its values."""
        return self._begun.get(timeout=SECONDS)

    def end(self) -> None:
        self._ends.put(None)

    @property
    def is_idle(self) -> bool:
        return self._begun.empty()


def _line_up(
    pool: ThreadPoolExecutor, gathered: Gathered[Array], calls: Sequence[Array]
) -> list[Future[Array]]:
    """Make one call after the other, each from a thread that waits before the next one calls."""
    waiting = gathered._queue()._waiting
    before = len(waiting)
    futures: list[Future[Array]] = []
    for rows in calls:
        futures.append(pool.submit(gathered, rows))
        _until(lambda: len(waiting) == before + len(futures))
    return futures


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_an_idle_call_runs_alone_at_once() -> None:
    runs: list[int] = []

    def infer(rows: Array) -> Array:
        runs.append(len(rows))
        return _double(rows)

    gathered = Gathered(infer, _pick)
    for number in range(3):
        np.testing.assert_array_equal(gathered(_rows(number, 7)), [2 * number, 14])
    assert runs == [2, 2, 2]


def test_calls_that_wait_share_a_run_and_get_their_own_rows() -> None:
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gathered, _rows(1))
        assert stage.next() == [1]
        others = _line_up(pool, gathered, [_rows(2, 3), _rows(4), _rows(5, 6, 7)])
        assert stage.is_idle
        stage.end()
        assert first.result(SECONDS).tolist() == [2]
        assert stage.next() == [2, 3, 4, 5, 6, 7]
        stage.end()
        assert [call.result(SECONDS).tolist() for call in others] == [[4, 6], [8], [10, 12, 14]]


def test_only_equal_sizes_and_types_share_a_run_and_the_oldest_goes_first() -> None:
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick)
    calls = [
        _rows(1),
        _rows(2, width=3),
        _rows(3),
        _rows(4).astype(np.int32),
        _rows(5, width=3),
        _rows(6),
    ]
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gathered, _rows(0))
        assert stage.next() == [0]
        others = _line_up(pool, gathered, calls)
        for expected in ([1, 3, 6], [2, 5], [4]):
            stage.end()
            assert stage.next() == expected
        stage.end()
        assert [call.result(SECONDS).tolist() for call in (first, *others)] == [[2 * n] for n in range(7)]


def test_a_run_has_no_more_rows_than_allowed_unless_one_call_has() -> None:
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick, max_rows=4)
    calls = [_rows(1, 2), _rows(3, 4, 5), _rows(6), _rows(7), _rows(8), _rows(9, 10, 11, 12, 12, 14)]
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gathered, _rows(0))
        assert stage.next() == [0]
        others = _line_up(pool, gathered, calls)
        for expected in ([1, 2, 6, 7], [3, 4, 5, 8], [9, 10, 11, 12, 12, 14]):
            stage.end()
            assert stage.next() == expected
        stage.end()
        assert [len(call.result(SECONDS)) for call in (first, *others)] == [1, 2, 3, 1, 1, 1, 6]


def test_a_run_has_no_more_bytes_than_allowed() -> None:
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick, max_bytes=2 * 8 * 3)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gathered, _rows(0))
        assert stage.next() == [0]
        others = _line_up(pool, gathered, [_rows(1), _rows(2), _rows(3), _rows(4), _rows(5, width=9)])
        for expected in ([1, 2, 3], [4], [5]):
            stage.end()
            assert stage.next() == expected
        stage.end()
        assert [call.result(SECONDS).tolist() for call in (first, *others)] == [[2 * n] for n in range(6)]


def test_a_call_does_not_wait_for_ever_behind_those_of_another_size() -> None:
    """Others keep coming that could share a run, and still each call waits for those before it only."""
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick, max_rows=2)
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(gathered, _rows(0))]
        assert stage.next() == [0]
        calls += _line_up(pool, gathered, [_rows(1), _rows(2), _rows(3, width=3)])
        stage.end()
        assert stage.next() == [1, 2]
        calls += _line_up(pool, gathered, [_rows(4), _rows(5)])
        stage.end()
        assert stage.next() == [3]
        stage.end()
        assert stage.next() == [4, 5]
        stage.end()
        assert [call.result(SECONDS).tolist() for call in calls] == [[2 * n] for n in range(6)]


def test_several_runs_may_be_under_way() -> None:
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick, at_once=2)
    with ThreadPoolExecutor(8) as pool:
        running = []
        for number in range(2):
            running.append(pool.submit(gathered, _rows(number)))
            assert stage.next() == [number]
        waiting = _line_up(pool, gathered, [_rows(2), _rows(3, width=3), _rows(4)])
        assert stage.is_idle
        stage.end()
        assert stage.next() == [2, 4]
        stage.end()
        assert stage.next() == [3]
        stage.end()
        stage.end()
        assert [call.result(SECONDS).tolist() for call in running + waiting] == [[2 * n] for n in range(5)]


def test_only_the_culprit_of_a_shared_run_fails() -> None:
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gathered, _rows(0))
        assert stage.next() == [0]
        others = _line_up(pool, gathered, [_rows(1), _rows(2, BAD), _rows(3)])
        stage.end()
        assert stage.next() == [1, 2, BAD, 3]
        (late,) = _line_up(pool, gathered, [_rows(4)])
        for expected in ([1], [2, BAD], [3], [4]):
            stage.end()
            assert stage.next() == expected
        stage.end()
        assert [call.result(SECONDS).tolist() for call in (first, others[0], others[2], late)] == [
            [0],
            [2],
            [6],
            [8],
        ]
        with pytest.raises(ModelContractError, match=r"failed on \(2, 2\)"):
            others[1].result(SECONDS)


def test_another_error_comes_out_once_and_the_others_are_run_alone() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def infer(rows: Array) -> Array:
        begun.set()
        assert go_on.wait(SECONDS)
        if len(rows) > 1:
            raise ZeroDivisionError
        return _double(rows)

    gathered = Gathered(infer, _pick)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(gathered, _rows(0))
        assert begun.wait(SECONDS)
        others = _line_up(pool, gathered, [_rows(1), _rows(2), _rows(3)])
        go_on.set()
        assert first.result(SECONDS).tolist() == [0]
        with pytest.raises(ZeroDivisionError):
            others[0].result(SECONDS)
        assert [call.result(SECONDS).tolist() for call in others[1:]] == [[4], [6]]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also where a shell started us in the background, without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system can't signal a thread")
def test_a_wait_that_is_interrupted_holds_up_nobody() -> None:
    stage = _Stage()
    gathered = Gathered(stage.infer, _pick)
    main = threading.get_ident()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(gathered, _rows(0))
        assert stage.next() == [0]

        def interrupt() -> list[Future[Array]]:
            _until(lambda: len(gathered._queue()._waiting) == 1)
            behind = _line_up(pool, gathered, [_rows(2), _rows(BAD)])
            signal.pthread_kill(main, signal.SIGINT)
            return behind

        interrupting = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            gathered(_rows(1))
        behind = interrupting.result(SECONDS)
        for _ in range(4):
            stage.end()
        assert first.result(SECONDS).tolist() == [0]
        assert behind[0].result(SECONDS).tolist() == [4]
        with pytest.raises(ModelContractError):
            behind[1].result(SECONDS)


@settings(max_examples=50)
@given(
    calls=st.lists(
        st.tuples(st.lists(st.integers(0, BAD), min_size=1, max_size=5), st.integers(1, 3)), max_size=30
    ),
    threads=st.integers(1, 8),
    max_rows=st.integers(1, 8),
    at_once=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_results_are_those_of_calls_alone(
    calls: list[tuple[list[int], int]], threads: int, max_rows: int, at_once: int, seed: int
) -> None:
    pause = random.Random(seed)
    lock = threading.Lock()
    running = 0
    sizes: list[int] = []

    def infer(rows: Array) -> Array:
        nonlocal running
        with lock:
            running += 1
            assert running <= at_once
            sizes.append(len(rows))
            nap = pause.random() / 2000
        time.sleep(nap)
        with lock:
            running -= 1
        return _double(rows)

    gathered = Gathered(infer, _pick, max_rows=max_rows, at_once=at_once)

    def outcome(call: tuple[list[int], int]) -> list[int] | None:
        values, width = call
        try:
            return gathered(_rows(*values, width=width)).tolist()  # type: ignore[no-any-return]
        except OcrError:
            return None

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(outcome, calls))
    assert found == [None if BAD in values else [2 * value for value in values] for values, _ in calls]
    longest = max((len(values) for values, _ in calls), default=0)
    assert max(sizes, default=0) <= max(max_rows, longest)


def test_it_survives_pickling() -> None:
    gathered = Gathered(_double, _pick, max_rows=5, max_bytes=99, at_once=3)
    copy = pickle.loads(pickle.dumps(gathered))
    assert copy(_rows(4)).tolist() == [8]
    assert (copy._max_rows, copy._max_bytes, copy._at_once) == (5, 99, 3)


def _four(gathered: Gathered[Array]) -> list[int]:
    return gathered(_rows(4)).tolist()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
def test_it_survives_a_fork_while_a_run_is_under_way() -> None:
    gathered = Gathered(_double, _pick)
    gathered._queue()._free = 0  # taken by a thread that a child does not have
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_four, (gathered,)).get(timeout=SECONDS) == [8]


def test_a_forked_child_has_a_queue_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = Gathered(_double, _pick)
    gathered._queue().lock.acquire()  # held by a thread that a child does not have
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert _four(gathered) == [8]
