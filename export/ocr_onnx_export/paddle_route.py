"""A Paddle program and its parameters in, an ONNX model out, by Paddle2ONNX in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ocr_onnx.data import F32Array
from ocr_onnx.errors import DependencyError
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.finish import OPSET

PYTHON_VARIABLE = "OCR_ONNX_PADDLE_PYTHON"
INSTALL_HINT = (
    f"set {PYTHON_VARIABLE} to the Python of an environment with paddlepaddle==3.2.2 and paddle2onnx==2.0.1, "
    "such as `uv sync --only-group paddle` makes"
)
FILES_HINT = "check that program and parameters are complete and belong to one model"


class TimedOutput(NamedTuple):
    """What a network put out, and how long it took, first runs and their warm-up included."""

    output: F32Array
    time_ms: float


@dataclass(frozen=True, slots=True)
class PaddleTool:
    """An interpreter that has Paddle. Every call is a fresh process; a crash of Paddle's is an error here."""

    python: str
    timeout_s: float = 1800.0  # the server models are slow without oneDNN

    @classmethod
    def find(cls) -> "PaddleTool":
        """Return the interpreter named by OCR_ONNX_PADDLE_PYTHON, else the running one."""
        return cls(os.environ.get(PYTHON_VARIABLE) or sys.executable)

    def versions(self) -> dict[str, str]:
        """Return the versions of paddle2onnx and paddlepaddle.

        Raises
        ------
        DependencyError
            The interpreter lacks one of the two.
        """
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "versions.json"
            done = self._run({"task": "versions", "out": str(out)})
            if done.returncode or not out.is_file():
                raise DependencyError(self.python, "has no paddlepaddle and paddle2onnx", INSTALL_HINT)
            found: dict[str, str] = json.loads(out.read_text())
        return found

    def convert(self, program: Path, params: Path) -> onnx.ModelProto:
        """Convert `inference.pdmodel` or `inference.json` with its parameters; the result is unfinished.

        Paddle2ONNX reports success with an empty or a broken file too, so the file is parsed and
        checked here, and the caller is expected to run it.

        Raises
        ------
        ConversionError
            Nothing came out, or what came out is not valid ONNX.
        """
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model.onnx"
            files = {"program": str(program), "params": str(params), "out": str(out)}
            done = self._run({"task": "convert", "opset": OPSET, **files})
            if not out.is_file() or out.stat().st_size == 0:
                problem = f"Paddle2ONNX made no file ({_last_words(done)})"
                raise ConversionError(str(program), problem, FILES_HINT)
            try:
                model = onnx.load(out)
                onnx.checker.check_model(model)
            except (DecodeError, onnx.checker.ValidationError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                problem = f"Paddle2ONNX made an invalid file ({reason})"
                raise ConversionError(str(program), problem, INSTALL_HINT) from error
        return model

    def upgrade(self, program: Path, params: Path, folder: Path) -> tuple[Path, Path]:
        """Write a legacy program as PIR into `folder`; return the program's and the parameters' paths.

        Raises
        ------
        ConversionError
            Paddle could not read it.
        """
        out = folder / "inference"
        done = self._run({"task": "upgrade", "program": str(program), "params": str(params), "out": str(out)})
        written = out.with_suffix(".json"), out.with_suffix(".pdiparams")
        if done.returncode or not all(path.is_file() for path in written):
            raise ConversionError(str(program), f"Paddle can't read it ({_last_words(done)})", FILES_HINT)
        return written

    def infer(self, program: Path, params: Path, feeds: Sequence[F32Array]) -> list[TimedOutput]:
        """Run a program with Paddle on every array of `feeds`; return its first output for each.

        Raises
        ------
        ConversionError
            Paddle could not load or run it.
        """
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "feeds.npz", Path(folder) / "results.npz"
            names = [f"{index:06d}" for index in range(len(feeds))]
            np.savez(source, allow_pickle=False, **dict(zip(names, feeds, strict=True)))
            job = {"program": str(program), "params": str(params), "feeds": str(source), "out": str(out)}
            done = self._run({"task": "run", **job})
            if done.returncode or not out.is_file():
                raise ConversionError(str(program), f"Paddle can't run it ({_last_words(done)})", FILES_HINT)
            with np.load(out) as arrays:
                return [TimedOutput(arrays[name], float(arrays[f"ms_{name}"])) for name in names]

    def _run(self, job: Mapping[str, str | int]) -> subprocess.CompletedProcess[str]:
        worker = Path(__file__).with_name("paddle_worker.py")
        try:
            return subprocess.run(  # noqa: S603 - our own script, arguments as a list
                [self.python, str(worker), json.dumps(job)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DependencyError(self.python, f"could not be run ({error})", INSTALL_HINT) from error


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else f"exit code {done.returncode}"
