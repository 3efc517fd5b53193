"""How many threads this process may use (processor affinity, cgroup quota), and who uses them when."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """Shares out `count` processors: whoever asks for more than are free waits, first come first served."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Hold `count` processors, or all of them where there are fewer."""
        count = min(count, self._count)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= count)
                self._free -= count
            finally:  # an interrupted wait must not hold up those behind it
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


def usable_threads() -> int:
    """Return how many threads can really run at once: min(affinity, cgroup quota), at least 1."""
    quota = cgroup_cpus()
    cores = affinity_cpus()
    return cores if quota is None else max(1, min(cores, int(quota)))


def affinity_cpus() -> int:
    """Return how many processors this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cpus(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Return the processors that the cgroup's quota is worth; None without a quota.

    Reads version 2 (`cpu.max`, the tightest of this group and its parents) and version 1
    (`cpu.cfs_quota_us`).
    """
    own = Path(_unified_group(membership))
    quotas = [_quota_v2(root / group / "cpu.max") for group in (own, *own.parents)]
    quotas.append(_quota_v1(root / "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def _unified_group(membership: Path) -> str:
    """Return this process's version 2 group, relative to the root; "" where there is none."""
    try:
        rows = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((row[len("0::") :].lstrip("/") for row in rows if row.startswith("0::")), "")


def _quota_v2(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
