"""The engines that are compared, and the throw-away environments that they are installed in."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

from ocr_onnx import runtime
from ocr_onnx_bench.peer_process import PeerError, cause_in

INSTALL_TIMEOUT_S = 1800.0
READY = "installed"  # the file that says that an environment is whole

Weights: TypeAlias = Literal["embedded", "stock", "paddle", "own"]


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine: the branch of the worker that runs it, what to install for it, what it runs on.

    No `requirements` means the environment that runs this command. `weights` are our embedded
    files, the stock ONNX files of the same weights, the Paddle files they were converted from, or
    others of the engine's own choice.
    """

    name: str
    kind: str
    weights: Weights
    requirements: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


RAPIDOCR_1 = ("rapidocr-onnxruntime==1.4.4",)
RAPIDOCR_3 = ("rapidocr==3.10.0",)
OPENVINO = ("openvino==2025.4.1",)  # that of our extra `openvino`
PADDLE = ("paddleocr==3.7.0", "paddlepaddle==3.2.2")
ONNXTR = ("onnxtr[cpu-headless]==0.9.0",)


def stock() -> tuple[str, ...]:
    """Return what brings the stock model files: they are inside this wheel."""
    return RAPIDOCR_1 + _onnxruntime()


def _onnxruntime() -> tuple[str, ...]:
    """Return the ONNX Runtime for peers: the version that this environment has, if that is the plain one."""
    wheels = runtime.installed_wheels()
    return (f"onnxruntime=={wheels['onnxruntime']}",) if "onnxruntime" in wheels else ("onnxruntime",)


def peers() -> tuple[Peer, ...]:
    """Return every engine that can be compared."""
    ort, rapid_3 = _onnxruntime(), RAPIDOCR_3 + OPENVINO
    return (
        Peer("ocr-onnx", "ocr_onnx", "embedded", settings=(("device", "cpu"),)),
        Peer("ocr-onnx-openvino", "ocr_onnx", "embedded", _own("openvino"), (("device", "openvino"),)),
        Peer("rapidocr1-onnxruntime", "rapidocr_1", "stock", stock()),
        Peer("rapidocr3-onnxruntime", "rapidocr_3", "stock", RAPIDOCR_3 + ort, (("engine", "onnxruntime"),)),
        Peer("rapidocr3-openvino", "rapidocr_3", "stock", rapid_3, (("engine", "openvino"),)),
        Peer(
            "rapidocr3-openvino-f32",
            "rapidocr_3",
            "stock",
            rapid_3,
            (("engine", "openvino"), ("precision", "f32")),
        ),
        Peer("paddleocr", "paddleocr", "paddle", PADDLE),
        Peer("onnxtr", "onnxtr", "own", ONNXTR + ort),
    )


def _own(extra: str) -> tuple[str, ...]:
    """Return what installs this project with another extra: this checkout, or the released wheel."""
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():
        return ("--editable", f"{checkout}[{extra}]")
    return (f"ocr-onnx[{extra}]=={version('ocr-onnx')}",)


def install(requirements: Sequence[str], folder: Path) -> Path:
    """Make the environment for `requirements` below `folder`, unless it is there; return its Python.

    No requirements mean the environment that runs this. uv does it where it is on the PATH, else
    venv and pip. Raises PeerError with what they said last.
    """
    if not requirements:
        return Path(sys.executable)
    key = "\n".join((sys.version, *requirements))
    place = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    python = python_of(place)
    if (place / READY).is_file():
        return python
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for command in _commands(place, python, requirements):
        _run(command, folder)
    (place / READY).touch()
    return python


def _commands(place: Path, python: Path, requirements: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    if uv := shutil.which("uv"):
        return (
            (uv, "venv", "--quiet", "--python", sys.executable, str(place)),
            (uv, "pip", "install", "--quiet", "--python", str(python), *requirements),
        )
    return (
        (sys.executable, "-m", "venv", str(place)),
        (str(python), "-m", "pip", "install", "--quiet", *requirements),
    )


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        # the requirements are those of the table above
        subprocess.run(  # noqa: S603
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=INSTALL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"was not installed within {INSTALL_TIMEOUT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        raise PeerError(f"can't be installed ({cause_in(error.stderr.decode(errors='replace'))})") from error
    except OSError as error:
        raise PeerError(f"can't be installed ({error.strerror})") from error


def python_of(environment: Path) -> Path:
    """Return the interpreter of an environment."""
    return environment / "bin" / "python"
