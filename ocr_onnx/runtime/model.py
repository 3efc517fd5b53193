"""A model file, its stage and the runtime options in; the callable that runs it out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime.device import Device, parse_device
from ocr_onnx.runtime.session import Array, Session, TensorInfo


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


def open_model(path: Path, stage: Stage, options: RuntimeOptions) -> Model:
    """Open a stage's model on the device of the options; raises what `Session` does.

    `stage` tells in which shapes its inputs come, which only TensorRT has to know.
    """
    if options.device != "auto" and parse_device(options.device).kind == "tensorrt":
        from ocr_onnx.runtime.tensorrt import (
            TensorRtModel,
        )  # brings OpenCV, which a CPU's doctor can do without

        return TensorRtModel(path, stage, options)
    return Session(path, options)
