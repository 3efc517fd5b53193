"""Several devices behind one callable, with fakes whose runs begin and end when the test says so."""

import logging
import multiprocessing
import os
import pickle
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_onnx.errors import DeviceError, ModelContractError
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Array, Device, Replicas, Session, TensorInfo, open_model

SECONDS = 60  # that a test waits for what should come at once


class _Fake:
    """A model whose run of number n is a call of `run`."""

    def __init__(self, index: int, run: Callable[[int, int], int]) -> None:
        self.path = Path("rec.onnx")
        self.device = Device("cuda", index)
        self.provider = "CUDAExecutionProvider"
        self.inputs: tuple[TensorInfo, ...] = ()
        self.outputs: tuple[TensorInfo, ...] = ()
        self.metadata: Mapping[str, str] = {}
        self._run = run

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        del outputs
        return [np.array(self._run(self.device.index, int(feeds["x"])))]

    def with_threads(self, threads: int) -> "_Fake":
        raise NotImplementedError(threads)

    def shapes_seen(self) -> frozenset[tuple[tuple[int, ...], ...]]:
        return frozenset({((1, self.device.index),), ((2, 2),)})


def _replicas(count: int, run: Callable[[int, int], int]) -> Replicas:
    return Replicas([_Fake(index, run) for index in range(count)])


def _call(replicas: Replicas, number: int) -> int:
    return int(replicas({"x": np.array(number)})[0])


def _failure(number: int) -> ModelContractError:
    return ModelContractError("rec.onnx", f"failed on {number}", "do something")


class _Stage:
    """Runs that begin where the test sees it, and end when it lets them."""

    def __init__(self, fails: Callable[[int, int], bool] = lambda _where, _number: False) -> None:
        self.begun: queue.Queue[tuple[int, int]] = queue.Queue()
        self._fails = fails
        self._ends: dict[tuple[int, int], threading.Event] = {}
        self._lock = threading.Lock()

    def run(self, where: int, number: int) -> int:
        end = self._end(where, number)
        self.begun.put((where, number))
        assert end.wait(SECONDS)
        if self._fails(where, number):
            raise _failure(number)
        return number

    def next(self) -> tuple[int, int]:
        """Wait for the next run to begin; return its replica and number."""
        return self.begun.get(timeout=SECONDS)

    def end(self, where: int, number: int) -> None:
        self._end(where, number).set()

    def _end(self, where: int, number: int) -> threading.Event:
        with self._lock:
            return self._ends.setdefault((where, number), threading.Event())


def _line_up(pool: ThreadPoolExecutor, replicas: Replicas, numbers: Sequence[int]) -> list[Future[int]]:
    """Call with one number after the other, each from a thread that waits before the next one calls."""
    waiting = replicas._queue()._waiting
    before = len(waiting)
    calls: list[Future[int]] = []
    for number in numbers:
        calls.append(pool.submit(_call, replicas, number))
        _until(lambda: len(waiting) == before + len(calls))
    return calls


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_replicas_are_a_model_of_all_their_devices() -> None:
    replicas = Replicas([_Fake(index, lambda _where, number: number) for index in (2, 0, 1)])
    assert str(replicas.device) == "cuda:2,0,1"
    assert replicas.device.kind == "cuda"
    assert (replicas.path, replicas.provider) == (Path("rec.onnx"), "CUDAExecutionProvider")
    assert replicas.shapes_seen() == {((1, 0),), ((1, 1),), ((1, 2),), ((2, 2),)}


def test_the_free_replica_with_the_fewest_runs_is_next() -> None:
    where: list[int] = []
    replicas = _replicas(3, lambda index, number: where.append(index) or number)  # type: ignore[func-returns-value]
    assert [_call(replicas, number) for number in range(7)] == list(range(7))
    assert where == [0, 1, 2, 0, 1, 2, 0]


def test_runs_begin_in_the_order_of_the_calls() -> None:
    stage = _Stage()
    replicas = _replicas(2, stage.run)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(_call, replicas, 0)]
        assert stage.next() == (0, 0)
        calls.append(pool.submit(_call, replicas, 1))
        assert stage.next() == (1, 1)
        calls += _line_up(pool, replicas, range(2, 8))
        assert stage.begun.empty()
        running = {0: 0, 1: 1}
        for number, free in zip(range(2, 8), (1, 0, 0, 0, 1, 0), strict=True):
            stage.end(free, running[free])
            assert stage.next() == (free, number)
            running[free] = number
        for where, number in running.items():
            stage.end(where, number)
        assert [call.result(SECONDS) for call in calls] == list(range(8))


def test_a_replica_does_one_run_at_a_time_and_none_is_idle_while_calls_wait() -> None:
    lock, most = threading.Lock(), Counter[int]()
    busy = Counter[int]()
    everybody = threading.Barrier(3)

    def run(where: int, number: int) -> int:
        with lock:
            busy[where] += 1
            most[where] = max(most[where], busy[where])
        everybody.wait(SECONDS)  # breaks unless all three run at once
        with lock:
            busy[where] -= 1
        return number

    replicas = _replicas(3, run)
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(lambda number: _call(replicas, number), range(60))) == list(range(60))
    assert most == {0: 1, 1: 1, 2: 1}
    assert sorted(replicas._queue()._runs) == [20, 20, 20]


def test_a_replica_that_fails_is_put_out_of_service_and_its_work_done_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran = Counter[int]()

    def run(where: int, number: int) -> int:
        ran[where] += 1
        if where == 1:
            raise _failure(number)
        return number

    replicas = _replicas(3, run)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: _call(replicas, number), range(100))) == list(range(100))
    (record,) = caplog.records
    assert record.getMessage().startswith("cuda:1 is out of service for rec.onnx: a run failed that cuda:")
    assert "failed on" in record.getMessage()
    before = ran[1]
    assert [_call(replicas, number) for number in range(10)] == list(range(10))
    assert ran[1] == before


def test_a_run_that_fails_everywhere_is_the_inputs_fault(caplog: pytest.LogCaptureFixture) -> None:
    where: list[int] = []

    def run(index: int, number: int) -> int:
        where.append(index)
        if number < 0:
            raise _failure(number)
        return number

    replicas = _replicas(3, run)
    with pytest.raises(ModelContractError, match="failed on -1"):
        _call(replicas, -1)
    assert where == [0, 1, 2]
    assert [_call(replicas, number) for number in range(3)] == [0, 1, 2]
    assert where[3:] == [0, 1, 2]
    assert caplog.records == []


def test_the_last_replica_stays() -> None:
    def run(where: int, number: int) -> int:
        if where == 0 or number < 0:
            raise _failure(number)
        return number

    replicas = _replicas(2, run)
    assert _call(replicas, 1) == 1
    for _ in range(2):
        with pytest.raises(ModelContractError, match="failed on -1"):
            _call(replicas, -1)
        assert _call(replicas, 2) == 2


def test_work_that_is_done_again_comes_before_work_that_has_not_begun() -> None:
    stage = _Stage(lambda where, _number: where == 0)
    replicas = _replicas(2, stage.run)
    with ThreadPoolExecutor(4) as pool:
        failing = pool.submit(_call, replicas, 0)
        assert stage.next() == (0, 0)
        other = pool.submit(_call, replicas, 1)
        assert stage.next() == (1, 1)
        (late,) = _line_up(pool, replicas, [2])
        stage.end(0, 0)
        assert stage.next() == (0, 2)  # the failure waits for replica 1: this one holds up nobody
        (later,) = _line_up(pool, replicas, [3])
        stage.end(1, 1)
        assert stage.next() == (1, 0)
        stage.end(1, 0)
        assert failing.result(SECONDS) == 0  # and replica 0 is out of service
        assert stage.next() == (1, 3)
        stage.end(0, 2)
        stage.end(1, 3)
        assert stage.next() == (1, 2)
        stage.end(1, 2)
        assert [call.result(SECONDS) for call in (other, late, later)] == [1, 2, 3]


def test_any_other_error_passes_and_frees_the_replica() -> None:
    def run(_where: int, number: int) -> int:
        return 10 // number

    replicas = _replicas(2, run)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            _call(replicas, 0)
    assert _call(replicas, 5) == 2


def test_closing_ends_what_runs_and_refuses_what_waits() -> None:
    stage = _Stage()
    replicas = _replicas(2, stage.run)
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(_call, replicas, number) for number in range(2)]
        began = {stage.next(), stage.next()}
        waiting = _line_up(pool, replicas, [2, 3])
        closing = pool.submit(replicas.close)
        for call in waiting:
            with pytest.raises(
                DeviceError, match=r"cuda:0,1: was closed while a run waited.*load the engine"
            ):
                call.result(SECONDS)
        assert not closing.done()
        for where, number in began:
            stage.end(where, number)
        closing.result(SECONDS)
        assert [call.result(SECONDS) for call in running] == [0, 1]
    with pytest.raises(DeviceError, match="was closed"):
        _call(replicas, 4)
    replicas.close()


def test_a_run_that_began_before_closing_is_done_again_after_it() -> None:
    stage = _Stage(lambda where, number: number == where)
    replicas = _replicas(2, stage.run)
    with ThreadPoolExecutor(3) as pool:
        call = pool.submit(_call, replicas, 0)
        assert stage.next() == (0, 0)
        closing = pool.submit(replicas.close)
        _until(lambda: replicas._queue()._closed)
        stage.end(0, 0)
        assert stage.next() == (1, 0)
        assert not closing.done()
        stage.end(1, 0)
        assert call.result(SECONDS) == 0
        closing.result(SECONDS)


@settings(max_examples=60)
@given(
    failures=st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=4),
    threads=st.integers(1, 6),
    numbers=st.lists(st.integers(0, 11), max_size=40),
)
def test_nothing_is_lost_whatever_fails(failures: list[set[int]], threads: int, numbers: list[int]) -> None:
    """`failures` holds on which numbers each replica fails; the last of them works."""
    failures = [*failures, set[int]()]

    def run(where: int, number: int) -> int:
        if number in failures[where]:
            raise _failure(number)
        return number

    replicas = _replicas(len(failures), run)
    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(lambda number: _call(replicas, number), numbers)) == numbers
    out = replicas._queue()._out
    assert len(failures) - 1 not in out
    assert all(failures[where] & set(numbers) for where in out)


@settings(max_examples=60)
@given(
    failures=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=4),
    numbers=st.lists(st.integers(0, 5), max_size=40),
)
def test_one_call_after_the_other_is_as_the_rules_say(failures: list[set[int]], numbers: list[int]) -> None:
    replicas = _replicas(len(failures), lambda where, number: _fail_if(number in failures[where], number))
    serving = set(range(len(failures)))
    runs = [0] * len(failures)
    for number in numbers:
        tried: list[int] = []
        done = False
        while not done and len(tried) < len(serving):
            where = min(serving - set(tried), key=lambda one: (runs[one], one))
            runs[where] += 1
            done = number not in failures[where]
            if not done:
                tried.append(where)
        if done:
            assert _call(replicas, number) == number
            serving -= set(tried)
        else:
            with pytest.raises(ModelContractError, match=f"failed on {number}"):
                _call(replicas, number)
    assert replicas._queue()._runs == runs


def _fail_if(fails: bool, number: int) -> int:
    if fails:
        raise _failure(number)
    return number


def _two(path: Path) -> Replicas:
    return Replicas([Session(path, RuntimeOptions("cpu", threads=1)) for _ in range(2)])


def _sum(model: Replicas | Session, width: int = 64) -> float:
    x = np.random.default_rng(width).random((1, 3, 48, width), np.float32)
    return float(model({"x": x})[0].sum())


def test_results_are_those_of_one_session(tiny_rec: Path) -> None:
    one, two = Session(tiny_rec, RuntimeOptions("cpu", threads=1)), _two(tiny_rec)
    assert (two.provider, two.inputs, two.metadata) == (one.provider, one.inputs, one.metadata)
    widths = [64, 72, 80] * 8
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda width: _sum(two, width), widths)) == [
            _sum(one, width) for width in widths
        ]
    assert two.shapes_seen() == one.shapes_seen()
    assert _sum(two.with_threads(2)) == _sum(one)
    with pytest.raises(ModelContractError, match=r"tiny-rec\.onnx: failed on x \[1, 3, 47, 64\]"):
        two({"x": np.ones((1, 3, 47, 64), np.float32)})


def test_replicas_survive_pickling(tiny_rec: Path) -> None:
    two = _two(tiny_rec)
    two.close()
    assert _sum(pickle.loads(pickle.dumps(two))) == _sum(_two(tiny_rec))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
def test_replicas_survive_a_fork_while_runs_wait(tiny_rec: Path) -> None:
    two = _two(tiny_rec)
    expected = _sum(two)
    two._queue()._busy |= {0, 1}  # taken by threads that a child does not have
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_sum, (two,)).get(timeout=SECONDS) == expected
    two._queue()._busy.clear()
    assert _sum(two) == expected


def test_a_forked_child_has_a_queue_of_its_own(tiny_rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = _two(tiny_rec)
    expected = _sum(two)
    two._queue()._changed.acquire()  # held by a thread that a child does not have
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert _sum(two) == expected


def test_several_gpus_open_a_session_each(tiny_rec: Path, pretended_gpus: list[int]) -> None:
    several = open_model(tiny_rec, "rec", RuntimeOptions("cuda:1,0"))
    assert isinstance(several, Replicas)
    assert [str(replica.device) for replica in several.replicas] == ["cuda:1", "cuda:0"]
    assert pretended_gpus == [1, 0]
    assert isinstance(open_model(tiny_rec, "rec", RuntimeOptions("cuda:1")), Session)
    assert pretended_gpus == [1, 0, 1]
