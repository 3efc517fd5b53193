"""What a figure depends on beside the code: this machine's CPU, limits, packages and commit."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ocr_onnx import runtime, threads

PACKAGES = ("ocr-onnx", "numpy", "opencv-python-headless", "pyclipper", "shapely", "Pillow")

# what the matrix kernels of ONNX Runtime, OpenVINO and OpenCV choose between
CPU_FLAGS = frozenset(
    {"sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl"}
    | {"avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}
    | {"asimd", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16"}
)


@dataclass(frozen=True, slots=True)
class Environment:
    """Names nobody: no host, no user, no path.

    `cores` are those this process may run on, `cpu_quota` how many of them its cgroup grants
    (None: no limit). `commit` ends in "+" when tracked files differ from it; None outside a
    checkout. `gpu` is the name, driver and memory of the first NVIDIA GPU; None without.
    """

    system: str
    machine: str
    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int
    cpu_quota: float | None
    python: str
    packages: tuple[tuple[str, str], ...]
    commit: str | None
    gpu: str | None = None


def describe() -> Environment:
    """Describe the machine this process runs on."""
    model, flags = _cpu()
    return Environment(
        system=platform.system(),
        machine=platform.machine(),
        cpu=model,
        cpu_flags=tuple(sorted(flags & CPU_FLAGS)),
        cores=threads.affinity_cpus(),
        cpu_quota=threads.cgroup_cpus(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=_packages(),
        commit=_commit(),
        gpu=_nvidia_smi("--query-gpu=name,driver_version,memory.total"),
    )


def peak_rss_mib() -> float | None:
    """Return the most memory this process ever held; None where the system does not tell (not Linux)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def gpu_memory_mib() -> float | None:
    """Return what this process holds on NVIDIA GPUs; None without one."""
    rows = _nvidia_smi("--query-compute-apps=pid,used_memory", "nounits", every=True)
    own = [row.split(", ")[1] for row in (rows or "").splitlines() if row.split(", ")[0] == str(os.getpid())]
    return sum(map(float, own)) if own else None


def _nvidia_smi(query: str, *extra: str, every: bool = False) -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        command = [tool, query, f"--format={','.join(('csv', 'noheader', *extra))}"]
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=20)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    rows = done.stdout.strip()
    return rows if every else next(iter(rows.splitlines()), None)


def _cpu() -> tuple[str, frozenset[str]]:
    """Return the CPU's model and all its flags; Linux tells both, other systems the model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor(), frozenset()
    fields: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features", "")
    return fields.get("model name") or platform.processor(), frozenset(flags.split())


def _packages() -> tuple[tuple[str, str], ...]:
    found = dict(runtime.installed_wheels())
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return tuple(sorted(found.items()))


def _commit() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None  # installed from a wheel, maybe inside somebody else's checkout
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    # fixed arguments, and git from the PATH as everywhere else
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603
    return done.stdout.strip()
