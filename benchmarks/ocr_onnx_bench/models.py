"""A model's name goes in; a file to time comes out, with its true weights or with synthesised ones."""

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ocr_onnx import model_store
from ocr_onnx.errors import DependencyError, ModelMissingError
from ocr_onnx.manifest import Stage
from ocr_onnx.options import ModelOptions
from ocr_onnx_bench.cases import Precision

Weights: TypeAlias = Literal["real", "synthesised", "rebuilt"]
"""Rebuilt: not even the official graph was at hand, so the network was built from its publication."""

GRAPHS_VARIABLE = "OCR_ONNX_PADDLE_MODELS"
REPSVTR = "ch_RepSVTR_rec"


@dataclass(frozen=True, slots=True)
class TimedModel:
    """A file that can be timed. Speed does not depend on training, so weights may be synthesised."""

    name: str
    stage: Stage
    path: Path
    sha256: str
    weights: Weights


def obtain(
    name: str, precision: Precision, options: ModelOptions, graphs: Path | None, folder: Path
) -> TimedModel:
    """Return the model that its publisher calls `name`; files that have to be made go into `folder`.

    Looked for in turn: on this machine, as `ocr-onnx run` would find it (real weights); in `graphs`,
    a folder with graphs/NAME/inference.json (parameters are synthesised); ch_RepSVTR_rec is built.
    Raises ModelMissingError where there is nothing to time, DependencyError where a file would have to be
    made without the package `onnx`.
    """
    found = _at_hand(name, options)
    # Everything else makes a file, with the package `onnx`: a machine that only measures may lack it.
    can_make = importlib.util.find_spec("onnx") is not None
    if found is None and can_make:
        found = _from_graph(name, graphs, folder) or (_built(folder) if name == REPSVTR else None)
    if found is None:
        remedy = f"fetch it with `ocr-onnx models pull`, or name graphs: --graphs or {GRAPHS_VARIABLE}"
        raise ModelMissingError(name, "is not on this machine", remedy)
    if precision == "fp32":
        return found
    if not can_make:
        raise DependencyError("onnx", "is not installed, and lowers precisions", "install 'ocr-onnx[bench]'")
    return _lowered(found, precision, folder)


def graphs_folder(given: Path | None) -> Path | None:
    """Return the folder of official graphs: as given, else what the environment names, else None."""
    named = os.environ.get(GRAPHS_VARIABLE)
    return given or (Path(named) if named else None)


def _at_hand(name: str, options: ModelOptions) -> TimedModel | None:
    for status in model_store.verify(options):
        spec = status.spec
        if name in (spec.name, spec.official) and status.state == "ok" and status.path and spec.sha256:
            return TimedModel(name, spec.stage, status.path, spec.sha256, "real")
    return None


def _from_graph(name: str, graphs: Path | None, folder: Path) -> TimedModel | None:
    from ocr_onnx_export.reports import SUBJECTS, open_subject
    from ocr_onnx_export.rewrite import passes_for, rewrite
    from ocr_onnx_export.routes import convert_source

    subject = next((one for one in SUBJECTS if one.name == name and one.graph), None)
    if subject is None or graphs is None:
        return None
    if not (graphs / "graphs" / str(subject.graph) / "inference.json").is_file():
        return None
    made = folder / name
    made.mkdir(exist_ok=True)
    source = open_subject(subject, graphs, made)
    converted = convert_source(
        source, name, rewrite=lambda model, stage: rewrite(model, passes_for("cpu", stage))
    )
    return _written(made / f"{name}.onnx", converted.data, name, converted.label.stage, "synthesised")


def _built(folder: Path) -> TimedModel:
    from ocr_onnx_bench.repsvtr import rep_svtr
    from ocr_onnx_export.finish import to_bytes
    from ocr_onnx_export.rewrite import passes_for, rewrite

    data = to_bytes(rewrite(rep_svtr(), passes_for("cpu", "rec")))
    return _written(folder / f"{REPSVTR}.onnx", data, REPSVTR, "rec", "rebuilt")


def _lowered(model: TimedModel, precision: Precision, folder: Path) -> TimedModel:
    import onnx

    from ocr_onnx_export import precision as lower
    from ocr_onnx_export.finish import to_bytes

    change = {"fp16": lower.to_half, "fp16-storage": lower.store_half, "int8": lower.matmul_to_int8}
    data = to_bytes(change[precision](onnx.load(model.path)))
    return _written(folder / f"{model.name}-{precision}.onnx", data, model.name, model.stage, model.weights)


def _written(path: Path, data: bytes, name: str, stage: Stage, weights: Weights) -> TimedModel:
    path.write_bytes(data)
    return TimedModel(name, stage, path, hashlib.sha256(data).hexdigest(), weights)
