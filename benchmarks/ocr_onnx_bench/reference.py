"""`reference.toml`, beside this module, goes in; what the reference publishes comes out, model by model."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """The published figures of one model.

    `name` is the publisher's. `accuracy` is in per cent, of the kind `measure` says, on `set`, which
    is private. `gpu_ms` (Tesla T4) and `cpu_ms` (Xeon Gold 5117, 8 threads) are FP32 and the model
    alone, `size_mb` is that of the Paddle model.
    """

    name: str
    stage: Literal["det", "rec"]
    accuracy: float
    measure: str
    set: str
    gpu_ms: float
    cpu_ms: float
    size_mb: float


def read() -> tuple[ReferenceModel, ...]:
    """Return all models that the reference publishes figures of, in the file's order."""
    file = resources.files("ocr_onnx_bench") / "reference.toml"
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return tuple(ReferenceModel(**entry) for entry in content["model"])


def find(name: str | None) -> ReferenceModel | None:
    """Return the figures of the model that its publisher calls `name`; None where there are none."""
    return next((model for model in read() if model.name == name), None)
