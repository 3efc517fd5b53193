import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocr_onnx import threads


def _cgroup(tmp_path: Path, files: dict[str, str], group: str = "/") -> tuple[Path, Path]:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    membership = tmp_path / "membership"
    membership.write_text(f"0::{group}\n")
    return root, membership


@pytest.mark.parametrize(
    ("files", "group", "cpus"),
    [
        ({"cpu.max": "max 100000\n"}, "/", None),
        ({"cpu.max": "150000 100000\n"}, "/", 1.5),
        ({"cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, "/a/b", 4.0),
        ({"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "300000 100000\n"}, "/a/b", 2.0),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "/", 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "/", None),
        ({"cpu.max": "garbage\n"}, "/", None),
        ({}, "/", None),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], group: str, cpus: float | None) -> None:
    assert threads.cgroup_cpus(*_cgroup(tmp_path, files, group)) == cpus


def test_no_membership_file_reads_the_root(tmp_path: Path) -> None:
    root, membership = _cgroup(tmp_path, {"cpu.max": "100000 100000\n"})
    membership.unlink()
    assert threads.cgroup_cpus(root, membership) == 1.0


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"), [(8, None, 8), (8, 2.5, 2), (2, 6.0, 2), (4, 0.5, 1)]
)
def test_the_tighter_bound_wins(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float | None, usable: int
) -> None:
    monkeypatch.setattr(threads, "affinity_cpus", lambda: affinity)
    monkeypatch.setattr(threads, "cgroup_cpus", lambda: quota)
    assert threads.usable_threads() == usable


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_affinity_is_obeyed() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads.affinity_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_without_affinity_masks_every_processor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.affinity_cpus() == 6


def test_turns_are_given_first_come_first_served() -> None:
    turns = threads.Turns(2)
    order: list[str] = []
    waiting = threading.Event()

    def take(name: str, count: int) -> None:
        waiting.set()
        with turns.taken(count):
            order.append(name)

    with ThreadPoolExecutor(2) as pool, turns.taken(1):
        pool.submit(take, "both", 2)
        waiting.wait(30)
        while len(turns._waiting) < 1:
            pass
        pool.submit(take, "one", 1)  # one is free, but "both" came first
        while len(turns._waiting) < 2:
            pass
        assert order == []
    assert order == ["both", "one"]


def test_whoever_asks_for_more_than_there_are_gets_all() -> None:
    turns = threads.Turns(2)
    with turns.taken(100):
        assert turns._free == 0
    assert turns._free == 2


def test_an_error_and_an_interrupted_wait_give_their_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = threads.Turns(1)
    with pytest.raises(KeyError), turns.taken(1):
        raise KeyError

    def interrupted(_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(turns._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt), turns.taken(1):
            pass
    with turns.taken(1):
        assert turns._free == 0
