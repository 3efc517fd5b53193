"""A model file, its stage and the runtime options in; the callable that runs it out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import probe
from ocr_onnx.runtime.binding import Array
from ocr_onnx.runtime.device import Device, parse_device
from ocr_onnx.runtime.replicas import Replicas
from ocr_onnx.runtime.session import Session, Shapes, TensorInfo


class Model(Protocol):
    """A model on the device that was asked for, whatever it takes to run it there.

    `inputs`, `outputs` and `metadata` are those of the file at `path`. `with_threads` gives the same
    model with another number of threads a run.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def device(self) -> Device: ...  # noqa: D102
    @property
    def provider(self) -> str: ...  # noqa: D102
    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[TensorInfo, ...]: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, str]: ...  # noqa: D102

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the model once, as `Session` does."""
        ...

    def with_threads(self, threads: int) -> "Model":
        """Return the same model with another number of threads a run."""
        ...

    def shapes_seen(self) -> frozenset[Shapes]:
        """Return the shapes of inputs that runs so far had, as `Session` does."""
        ...


def open_model(path: Path, stage: Stage, options: RuntimeOptions) -> Model:
    """Open a stage's model on the device of the options, or on each of several; raises what `Session` does.

    `stage` tells in which shapes its inputs come, which only TensorRT has to know.
    """
    if "," not in options.device:
        return _open_one(path, stage, options)
    device = probe.honoured(options)
    return Replicas([_open_one(path, stage, replace(options, device=str(one))) for one in device.each])


def _open_one(path: Path, stage: Stage, options: RuntimeOptions) -> Model:
    if options.device != "auto" and parse_device(options.device).kind == "tensorrt":
        # imported late as it brings OpenCV, which a processor's doctor can do without
        from ocr_onnx.runtime.tensorrt import TensorRtModel

        return TensorRtModel(path, stage, options)
    return Session(path, options)
