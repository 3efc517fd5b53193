"""A converted model in, a folder for `--model-dir` out: ONNX file, manifest entry, report; all or nothing."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ocr_onnx.errors import ModelError
from ocr_onnx.manifest import (
    GateResult,
    InputContract,
    Manifest,
    ModelSet,
    ModelSource,
    ModelSpec,
    Stage,
    read_manifest,
)
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_export.report import Report
from ocr_onnx_export.routes import Converted

MANIFEST_FILE = "manifest.toml"
REPORTS_FOLDER = "reports"
AUTHOR = "# Written by `ocr-onnx export`"
HEADER = f"{AUTHOR}, in the form of the manifest that ocr-onnx carries.\n"
# (N, H, W): the least, the usual and the most, which bound TensorRT's engines as well
SHAPES: Mapping[Stage, tuple[tuple[int, int, int], ...]] = {
    "det": ((1, 32, 32), (1, 736, 736), (1, 4000, 4000)),
    "rec": ((1, 48, 32), (6, 48, 320), (8, 48, 3200)),
    "cls": ((1, 48, 192), (6, 48, 192), (8, 48, 192)),
}
UNSTATED = "not stated"


@dataclass(frozen=True, slots=True)
class Published:
    """What an export wrote: the ONNX file, its manifest entry, and its report."""

    path: Path
    spec: ModelSpec
    report: Report


def file_name(text: str) -> str:
    """Return a plain lower-case name made of `text`: "PP-OCRv4_mobile_det" gives "pp-ocrv4-mobile-det"."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"


def lay_out(
    stage: Path, out: Path, product: Converted, spec: ModelSpec, report: Report, *, own: bool
) -> Published:
    """Write file, report and manifest into `stage`, from where `staging` moves them into `out`.

    `own`: the model is no manifest's, so that it comes with a set of its own name.
    """
    (stage / spec.file).write_bytes(product.data)
    reports = stage / REPORTS_FOLDER
    reports.mkdir()
    stem = product.label.name
    (reports / f"{stem}.json").write_text(report.to_json(), encoding="utf-8")
    (reports / f"{stem}.md").write_text(report.to_markdown(), encoding="utf-8")
    manifest = updated_manifest(out, spec, set_with(spec) if own else None)
    (stage / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
    return Published(out / spec.file, spec, report)


def describe_model(
    converted: Converted,
    path: Path,
    name: str,
    *,
    known: ModelSpec | None = None,
    precision: str = "fp32",
    gates: tuple[GateResult, ...] = (),
) -> ModelSpec:
    """Return the manifest entry for the file at `path`; what `known` says of licence and sources is kept."""
    label = converted.label
    session = Session(path, RuntimeOptions())
    input_name, shape = session.inputs[0].name, session.inputs[0].shape
    layout = "NHWC" if shape[-1] == 3 else "NCHW"
    shapes = [(n, h, w, 3) if layout == "NHWC" else (n, 3, h, w) for n, h, w in SHAPES[label.stage]]
    base = known or ModelSpec(name, label.stage, path.name, license=UNSTATED)
    return replace(
        base,
        name=name,
        file=path.name,
        sha256=hashlib.sha256(converted.data).hexdigest(),
        size_bytes=len(converted.data),
        origin=f"{label.source}, converted with {label.converter}",
        precision=precision,
        opset=converted.opset,
        classes=converted.classes,
        urls=(),
        input=InputContract(input_name, layout, "BGR", *shapes),
        gates=gates,
    )


def set_with(spec: ModelSpec) -> ModelSet:
    """Return a set named after a model, with the mobile models in the other places."""
    places = {"det": "ppocrv4-mobile-det", "rec": "ppocrv4-mobile-rec", "cls": "ppocr-mobile-v2-cls"}
    return ModelSet(spec.name, **{**places, spec.stage: spec.name})


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Give a folder inside `out` whose files move into `out` when all went well, the manifest last.

    Nothing is left behind otherwise: neither a part of a file nor an `out` that was not there before.

    Raises
    ------
    ModelError
        `out` can't be written (no permission, a full disk, a file of that name), or its manifest is
        not one of ours, which would lose its comments.
    """
    _check_author(out / MANIFEST_FILE)
    existed = out.exists()
    stage: Path | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
        yield stage
        _move(stage, out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(
            str(out),
            f"can't be written ({reason})",
            "give --out a folder with room that you may write to, and TMPDIR another for what is temporary",
        ) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def updated_manifest(out: Path, spec: ModelSpec, model_set: ModelSet | None) -> str:
    """Return the text of `out`'s manifest with `spec`, and a set, added or replaced."""
    path = out / MANIFEST_FILE
    present = read_manifest(path) if path.is_file() else Manifest()
    added = Manifest((spec,), (model_set,) if model_set else ())
    return to_toml(present.overlaid(added))


def to_toml(manifest: Manifest) -> str:
    """Write a manifest as the text that `ocr_onnx.manifest.read_manifest` reads back."""
    sets = ("[[set]]\n" + _lines(asdict(entry)) for entry in manifest.sets)
    return "\n".join([HEADER, *map(_model_block, manifest.models), *sets])


def _check_author(manifest: Path) -> None:
    try:
        ours = manifest.read_bytes().startswith(AUTHOR.encode())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(
            str(manifest), f"can't be read ({reason})", "give --out a folder that you may write to"
        ) from error
    if not ours:
        raise ModelError(
            str(manifest),
            "was not written by `ocr-onnx export` and is not overwritten",
            "give --out another folder and copy from there what you need",
        )


def _model_block(model: ModelSpec) -> str:
    facts = {field.name: getattr(model, field.name) for field in fields(model)}
    text = "[[model]]\n" + _lines(
        {key: value for key, value in facts.items() if key not in ("input", "gates", "sources")}
    )
    if model.input is not None:
        text += "\n[model.input]\n" + _lines(asdict(model.input))
    text += "".join("\n[[model.gate]]\n" + _lines(asdict(gate)) for gate in model.gates)
    return text + "".join(_source_block(source) for source in model.sources)


def _source_block(source: ModelSource) -> str:
    text = "\n[[model.source]]\n" + _lines({"layout": source.layout, "base_url": source.base_url})
    return text + "".join("\n[[model.source.files]]\n" + _lines(asdict(file)) for file in source.files)


def _lines(values: Mapping[str, Any]) -> str:
    """Write a table's entries; None and an empty list are left out."""
    said = {key: value for key, value in values.items() if value is not None and value != ()}
    return "".join(f"{key} = {_value(value)}\n" for key, value in said.items())


def _value(value: str | float | Sequence[str] | Sequence[int]) -> str:
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08X}"


def _move(stage: Path, out: Path) -> None:
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == MANIFEST_FILE):
        target = out / path.relative_to(stage)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
