"""How many threads this process may use: the processor affinity and the cgroup quota decide."""

import os
from pathlib import Path


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
