"""GPU wheels where no GPU can be used, each state in a real environment of its own: always the right error.

OCR_ONNX_ENVIRONMENTS=all uv run pytest tests/environments

Builds the environments from the lock file; a first time downloads 2 GB, and uv's cache keeps them. `small`
leaves out those with NVIDIA's libraries, which are 1.5 GB of it.
"""

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

WANTED = os.environ.get("OCR_ONNX_ENVIRONMENTS", "")
pytestmark = [
    pytest.mark.skipif(not WANTED, reason="set OCR_ONNX_ENVIRONMENTS=all (or small) to build environments"),
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"),
        reason="the matrix is that of Linux on x86-64",
    ),
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv builds the environments"),
]
with_nvidia = pytest.mark.skipif(WANTED == "small", reason="OCR_ONNX_ENVIRONMENTS=small leaves NVIDIA's out")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "tests" / "data" / "boarding-pass.png"
ZIG = "ziglang==0.17.1"  # a C compiler that is a wheel

LOAD = "from ocr_onnx import Engine; Engine.load(device={device!r})"
# Past the probe, to what ONNX Runtime itself does.
OPEN = """
from ocr_onnx.runtime import opening, parse_device, probe
opening.provider_chain = lambda *_: [("CUDAExecutionProvider", {options!r})]
opening.open_session("the probe model", probe.PROBE_MODEL, parse_device("cuda"), 1)
"""
REPORT = """
import json, sys
from ocr_onnx.errors import OcrError
try:
    exec(sys.argv[1])
except OcrError as error:
    told = [type(error).__name__, error.subject, error.problem, error.remedy]
    sys.stdout.write(json.dumps(told))
"""


class Refusal(NamedTuple):
    """An error as its parts."""

    kind: str
    subject: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the folder of a driver that its processes find."""

    folder: Path
    driver: Path | None = None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, without a driver or a cache of this machine's."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        variables |= {"LD_LIBRARY_PATH": str(self.driver or ""), "OCR_ONNX_OFFLINE": "1"}
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            capture_output=True, text=True, check=False, env=variables, cwd=ROOT, timeout=120,
        )  # fmt: skip

    def refusal_of(self, code: str) -> Refusal:
        """Return the error that Python code raises, which must print nothing on the way."""
        done = self.run("python", "-c", REPORT, code)
        assert done.stderr == ""
        assert done.returncode == 0
        return Refusal(*json.loads(done.stdout))

    def refusal(self, device: str) -> Refusal:
        """Return why a device is refused, by the library and, in the same words, by the command line."""
        refusal = self.refusal_of(LOAD.format(device=device))
        done = self.run("ocr-onnx", "run", str(PAGE), "--device", device)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"error: {refusal.subject}: {refusal.problem}; {refusal.remedy}\n"
        return refusal

    @property
    def packages(self) -> Path:
        [folder] = self.folder.glob("lib/python3*/site-packages")
        return folder


def _uv(*arguments: str, environment: Path | None = None) -> None:
    variables = dict(os.environ)
    if environment is not None:
        variables["UV_PROJECT_ENVIRONMENT"] = str(environment)
    done = subprocess.run(
        ["uv", *arguments], env=variables, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _build(folder: Path, *arguments: str) -> Environment:
    """Install what the lock file says, without development tools."""
    base = ("sync", "--quiet", "--frozen", "--no-default-groups", "--python", sys.executable)
    _uv(*base, *arguments, environment=folder)
    return Environment(folder)


def _locked(pattern: str) -> list[str]:
    """Return the names of locked packages that match a pattern."""
    names = re.findall(r'^name = "(.*)"$', (ROOT / "uv.lock").read_text(encoding="utf-8"), re.MULTILINE)
    return [name for name in names if re.fullmatch(pattern, name)]


def _without(pattern: str) -> list[str]:
    return [part for name in _locked(pattern) for part in ("--no-install-package", name)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(scope="session")
def cpu(folder: Path) -> Environment:
    """The CPU wheel."""
    return _build(folder / "cpu", "--extra", "cpu")


@pytest.fixture(scope="session")
def bare(folder: Path) -> Environment:
    """The GPU wheel without NVIDIA's libraries."""
    return _build(folder / "bare", "--extra", "gpu", *_without("nvidia-.*"))


@pytest.fixture(scope="session")
def bare_cuda12(folder: Path) -> Environment:
    """The GPU wheel for CUDA 12 without NVIDIA's libraries."""
    return _build(folder / "bare-cuda12", "--extra", "gpu-cuda12", *_without("nvidia-.*"))


@pytest.fixture(scope="session")
def gpu(folder: Path) -> Environment:
    """The GPU wheel with NVIDIA's libraries."""
    return _build(folder / "gpu", "--extra", "gpu")


@pytest.fixture(scope="session")
def no_cudnn(folder: Path) -> Environment:
    """The GPU wheel with all of NVIDIA's libraries but one."""
    return _build(folder / "no-cudnn", "--extra", "gpu", *_without("nvidia-cudnn.*"))


@pytest.fixture
def both(tmp_path: Path) -> Environment:
    """The CPU wheel with the GPU wheel over it."""
    environment = _build(tmp_path / "both", "--extra", "cpu")
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    versions = re.findall(r'^name = "onnxruntime-gpu"\nversion = "(.*)"$', lock, re.MULTILINE)
    wheel = f"onnxruntime-gpu=={max(versions, key=lambda version: tuple(map(int, version.split('.'))))}"
    _uv("pip", "install", "--quiet", "--no-deps", "--python", str(environment.folder), wheel)
    return environment


def _driver(folder: Path, **answers: int) -> Path:
    """Build a driver that answers so; return its folder."""
    built = folder / "-".join(["driver", *(f"{name}{value}" for name, value in answers.items())])
    if not built.exists():
        built.mkdir()
        zig = ("run", "--quiet", "--no-project", "--with", ZIG, "--", "python", "-m", "ziglang", "cc")
        flags = ("-shared", "-nostdlib", "-O2", "-fno-sanitize=undefined")
        told = [f"-D{name}={value}" for name, value in answers.items()]
        source = Path(__file__).with_name("stub_driver.c")
        _uv(*zig, *flags, *told, "-o", str(built / "libcuda.so.1"), str(source))
    return built


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


no_driver = pytest.mark.skipif(_has_driver(), reason="this machine has an NVIDIA driver")
DEVICES = pytest.mark.parametrize("device", ["cuda", "tensorrt"])


@DEVICES
def test_the_cpu_wheel_has_no_gpu_and_names_the_extra(cpu: Environment, device: str) -> None:
    refusal = cpu.refusal(device)
    assert (refusal.kind, refusal.subject) == ("DeviceError", f"{device}:0")
    assert re.match(
        r"the installed ONNX Runtime \(onnxruntime [\d.]+\) has no \w+ExecutionProvider$", refusal.problem
    )
    extra = {"cuda": "gpu", "tensorrt": "tensorrt"}[device]
    assert refusal.remedy == f"uninstall onnxruntime, then install 'ocr-onnx[{extra}]'"


@no_driver
@DEVICES
def test_the_gpu_wheel_without_a_driver(bare: Environment, device: str) -> None:
    refusal = bare.refusal(device)
    assert (refusal.kind, refusal.subject) == ("DeviceError", f"{device}:0")
    assert refusal.problem.startswith("the NVIDIA driver was not found (libcuda.so.1: cannot open")
    assert refusal.remedy.startswith("install NVIDIA's driver")


@pytest.mark.parametrize(
    ("answers", "device", "problem", "remedy"),
    [
        ({"INIT": 100}, "cuda", "sees no GPU", "CUDA_VISIBLE_DEVICES"),
        ({"INIT": 803}, "cuda", "does not fit the kernel's module", "restart the machine"),
        ({"VERSION": 12080}, "cuda", "speaks CUDA up to 12.8", "ocr-onnx[gpu-cuda12]"),
        ({"GPUS": 0}, "tensorrt", "shows 0 GPUs", "nvidia-smi"),
        ({}, "cuda:1", "there is no number 1", "nvidia-smi"),
        ({"CAPABILITY": 6}, "cuda", "compute capability 6.0", "ocr-onnx[gpu-cuda12]"),
    ],
)
def test_a_driver_that_will_not_do(
    bare: Environment, folder: Path, answers: dict[str, int], device: str, problem: str, remedy: str
) -> None:
    refusal = Environment(bare.folder, _driver(folder, **answers)).refusal(device)
    assert refusal.kind == "DeviceError"
    assert refusal.problem.startswith("the NVIDIA driver ")
    assert problem in refusal.problem
    assert remedy in refusal.remedy


@DEVICES
def test_missing_libraries_of_nvidia(bare: Environment, folder: Path, device: str) -> None:
    refusal = Environment(bare.folder, _driver(folder)).refusal(device)
    assert (refusal.kind, refusal.subject) == ("DeviceError", f"{device}:0")
    assert "libcublas.so.13 (wheel nvidia-cublas)" in refusal.problem
    assert "can't be loaded: libcublasLt.so.13: cannot open" in refusal.problem
    assert refusal.remedy == "install 'ocr-onnx[gpu]'; or use --device cpu"


def test_missing_libraries_of_an_older_cuda(bare_cuda12: Environment, folder: Path) -> None:
    refusal = Environment(bare_cuda12.folder, _driver(folder, VERSION=12080, CAPABILITY=6)).refusal("cuda")
    assert "libcublas.so.12 (wheel nvidia-cublas-cu12)" in refusal.problem
    assert refusal.remedy == "install 'ocr-onnx[gpu-cuda12]'; or use --device cpu"


@with_nvidia
def test_a_single_missing_library_of_nvidia(no_cudnn: Environment, folder: Path) -> None:
    refusal = Environment(no_cudnn.folder, _driver(folder)).refusal("cuda")
    assert refusal.problem.startswith("libcudnn.so.9 (wheel nvidia-cudnn-cu13) can't be loaded")
    assert refusal.remedy == "install 'ocr-onnx[gpu]'; or use --device cpu"


@with_nvidia
def test_a_damaged_library_of_nvidia(folder: Path, tmp_path: Path) -> None:
    damaged = _build(tmp_path / "damaged", "--extra", "gpu")
    library = damaged.packages / "nvidia" / "cu13" / "lib" / "libcublas.so.13"
    library.unlink()  # shared with uv's cache: not to be written to
    library.write_bytes(b"half a library")
    refusal = Environment(damaged.folder, _driver(folder)).refusal("cuda")
    assert (
        refusal.problem == f"libcublas.so.13 (wheel nvidia-cublas) can't be loaded: {library}: file too short"
    )


@with_nvidia
def test_a_driver_that_cuda_refuses(gpu: Environment, folder: Path) -> None:
    """Driver and libraries are there, the provider loads, and its first call fails."""
    refusal = Environment(gpu.folder, _driver(folder)).refusal("cuda")
    assert (refusal.kind, refusal.subject) == ("DeviceError", "cuda:0")
    assert re.match(r"could not open the probe model: CUDA failure \d+: [\w ]+$", refusal.problem)
    assert refusal.remedy.startswith("look what `nvidia-smi` says")


@with_nvidia
def test_missing_tensorrt(gpu: Environment, folder: Path) -> None:
    refusal = Environment(gpu.folder, _driver(folder)).refusal("tensorrt")
    assert (refusal.kind, refusal.subject) == ("DeviceError", "tensorrt:0")
    assert refusal.problem.startswith("TensorRT 10 can't be loaded: libnvinfer.so.10: cannot open")
    assert refusal.remedy.startswith("install 'ocr-onnx[tensorrt]'")


@with_nvidia
def test_a_mistyped_provider_option_where_the_provider_loads(gpu: Environment, folder: Path) -> None:
    code = OPEN.format(options={"devise_id": "0"})
    refusal = Environment(gpu.folder, _driver(folder)).refusal_of(code)
    assert (refusal.kind, refusal.subject) == ("DeviceError", "cuda:0")
    assert refusal.problem == "ONNX Runtime does not know the provider option 'devise_id'"


def test_a_provider_that_vanishes(bare: Environment, folder: Path) -> None:
    """ONNX Runtime raises nothing and opens a CPU session, which nobody gets."""
    code = OPEN.format(options={"devise_id": "0"})
    refusal = Environment(bare.folder, _driver(folder)).refusal_of(code)
    assert (refusal.kind, refusal.subject) == ("DeviceError", "cuda:0")
    assert refusal.problem.startswith("ONNX Runtime chose CPUExecutionProvider instead")
    assert "devise_id" in refusal.problem


@pytest.mark.parametrize("device", ["cpu", "cuda", "auto"])
def test_two_wheels_are_refused_whatever_is_asked_for(both: Environment, device: str) -> None:
    refusal = both.refusal(device)
    assert (refusal.kind, refusal.subject) == ("DependencyError", "onnxruntime")
    assert refusal.problem == "onnxruntime and onnxruntime-gpu are both installed and overwrite each other"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in refusal.remedy


@pytest.mark.parametrize(("gone", "left", "extra"), [("", "-gpu", "gpu"), ("-gpu", "", "cpu")])
def test_the_wheel_that_is_left_of_two_is_broken(both: Environment, gone: str, left: str, extra: str) -> None:
    _uv("pip", "uninstall", "--quiet", "--python", str(both.folder), f"onnxruntime{gone}")
    refusal = both.refusal("cuda")
    assert refusal.kind == "DependencyError"
    assert refusal.subject.startswith(f"onnxruntime{left} ")
    assert refusal.problem.startswith("has lost its files")
    assert (
        refusal.remedy == f"run `pip uninstall -y onnxruntime{left}`, then install 'ocr-onnx[{extra}]' anew"
    )
    assert both.refusal("cpu") == refusal


def test_no_wheel_at_all(folder: Path) -> None:
    refusal = _build(folder / "none").refusal("cuda")
    assert (refusal.kind, refusal.problem) == ("DependencyError", "is not installed")
    assert "'ocr-onnx[gpu]'" in refusal.remedy


@no_driver
def test_the_gpu_wheel_reads_on_the_cpu_without_a_word(bare: Environment) -> None:
    for device in ("cpu", "auto"):
        done = bare.run("ocr-onnx", "run", str(PAGE), "--device", device)
        assert (done.returncode, done.stderr) == (0, "")
        assert "BOARDING" in done.stdout


def test_a_slower_device_runs_only_where_allowed_and_says_so(bare: Environment, folder: Path) -> None:
    environment = Environment(bare.folder, _driver(folder))
    command = ("ocr-onnx", "run", str(PAGE), "--device", "tensorrt", "--allow-fallback", "--format", "json")
    done = environment.run(*command)
    assert done.returncode == 0
    [warning] = done.stderr.splitlines()
    assert re.match(r"warning: tensorrt:0: libcublasLt.so.13 .*; reading on cpu instead$", warning)
    provenance = json.loads(done.stdout)[0]["provenance"]
    assert (provenance["device"], provenance["provider"]) == ("cpu", "CPUExecutionProvider")
    assert provenance["fallback"].startswith("tensorrt:0: libcublasLt.so.13 ")


def test_the_doctor_tells_all_of_it(bare: Environment, folder: Path) -> None:
    done = Environment(bare.folder, _driver(folder)).run("ocr-onnx", "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = {(check["topic"], check["name"]): check for check in json.loads(done.stdout)["checks"]}
    assert found["driver", "NVIDIA"]["detail"] == "speaks CUDA up to 13.0"
    assert found["gpu", "0"]["detail"] == "S, compute capability 9.0, 8.0 GiB"
    assert found["library", "libcublas.so.13"]["remedy"] == "install 'ocr-onnx[gpu]'"
    assert found["device", "cuda:0"]["state"] == "note"
    assert found["device", "cpu"]["state"] == "ok"


def test_the_doctor_tells_of_two_wheels(both: Environment) -> None:
    done = both.run("ocr-onnx", "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in done.stdout
