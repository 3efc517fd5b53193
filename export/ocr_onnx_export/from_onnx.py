"""Any PP-OCR ONNX file in, a folder for `--model-dir` out: rewritten and equal to the original."""

from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ocr_onnx import recognize
from ocr_onnx.errors import ModelContractError, ModelError
from ocr_onnx.manifest import STAGES, GateResult, Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_export import golden, parity, publish
from ocr_onnx_export.errors import ConversionError, SourceFormatError
from ocr_onnx_export.finish import Label, to_bytes
from ocr_onnx_export.publish import Published
from ocr_onnx_export.reduce import Precision, reduced
from ocr_onnx_export.report import Report
from ocr_onnx_export.routes import STAGE_OF_RANK, Converted, Rewrite
from ocr_onnx_export.sources import Source, check_dictionary, read_dictionary

CONVERTER = "ocr-onnx rewrites"
FILE_REMEDY = "give an ONNX file, complete and with its weights inside"


def convert_onnx(
    path: Path,
    out: Path,
    *,
    name: str = "",
    dictionary: Path | None = None,
    rewrite: Rewrite | None = None,
    precision: Precision = "fp32",
    gate_images: Path | None = None,
) -> Published:
    """Rewrite an ONNX file and publish it into the folder `out` together with a set of its own name.

    The stage is what the metadata say, else what the output looks like. A rec model keeps its
    dictionary; `dictionary` is a text file for one that has none.

    Raises
    ------
    ModelError
        It is no ONNX file or no PP-OCR model, the dictionary is missing or another model's, the
        rewritten file answers otherwise or fails the gate of its precision, or `out` can't be
        written.
    """
    session = Session(path, RuntimeOptions())
    stage = _stage(session, path)
    name = publish.file_name(name or path.stem)
    grid = _grid(session, path, stage)
    with publish.staging(out) as folder:
        source, classes = _source(session, path, stage, grid, dictionary)
        converted = _rewritten(session, source, name, stage, classes, rewrite)
        file = folder / f"{name}.onnx"
        file.write_bytes(converted.data)
        report = _compare(source, file, stage, grid, name)
        truth = golden.onnx_truth(converted.plain or converted.data, stage)
        gates: tuple[GateResult, ...] = ()
        if precision != "fp32":
            file.unlink()
            converted, gates = reduced(converted, precision, gate_images)
            file = folder / f"{converted.label.name}.onnx"
            file.write_bytes(converted.data)
            report = replace(report, candidates={**report.candidates, precision: parity.file_facts(file)})
        golden.write_beside(file, stage, truth, precision)
        spec = publish.describe_model(converted, file, name, precision=precision, gates=gates)
        return publish.lay_out(folder, out, converted, spec, report, own=True)


def _stage(session: Session, path: Path) -> Stage:
    named = session.metadata.get("stage")
    for stage in STAGES:
        if stage == named:
            return stage
    shapes = {output.name: output.shape for output in session.outputs}
    found = STAGE_OF_RANK.get(len(shapes.get("probs", session.outputs[0].shape)))
    image = session.inputs[0]
    if found is None or len(image.shape) != 4 or 3 not in (image.shape[1], image.shape[3]):
        raise ModelContractError(
            str(path),
            f"takes {image.shape} and puts out {session.outputs[0].shape}, which no PP-OCR model does",
            "give a PP-OCR det, rec or cls model",
        )
    return found


def _grid(session: Session, path: Path, stage: Stage) -> list[tuple[int, int, int]]:
    """Return a few shapes (N, H, W); a size that the file fixes is kept, if ocr-onnx gives such lines."""
    shape = session.inputs[0].shape
    fixed = shape[:3] if shape[-1] == 3 else (shape[0], *shape[2:])
    if stage != "det" and fixed[1] not in (None, recognize.HEIGHT_PX):
        raise ModelContractError(
            str(path),
            f"takes lines {fixed[1]} px high, where ocr-onnx gives {recognize.HEIGHT_PX}",
            "give a model of PP-OCRv3 or newer",
        )
    sizes = {
        tuple(fix or wish for fix, wish in zip(fixed, wishes, strict=True))
        for wishes in parity.QUICK_GRID[stage]
    }
    return sorted((int(n), int(h), int(w)) for n, h, w in sizes)


def _source(
    session: Session, path: Path, stage: Stage, grid: list[tuple[int, int, int]], given: Path | None
) -> tuple[Source, int | None]:
    """Return the file as a source, with its checked dictionary, and its number of classes."""
    source = Source(session.metadata.get("source", path.name), "pir", path, path, stage)
    if stage == "det":
        return source, None
    images = [sample.images for sample in parity.samples(grid[:1])]
    classes = parity.onnx_runner(path, stage)(images)[0].output.shape[-1]
    if stage == "rec":
        kept = session.metadata.get("character")
        characters = read_dictionary(given) if given else ()
        if not given and kept is not None:
            characters = recognize.charset_of(kept)[1:-1]
        source = replace(source, dictionary=characters)
        check_dictionary(source, classes)
    return source, classes


def _rewritten(
    session: Session, source: Source, name: str, stage: Stage, classes: int | None, rewrite: Rewrite | None
) -> Converted:
    path = source.program
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, ValueError) as error:
        raise SourceFormatError(str(path), f"can't be read as ONNX ({error})", FILE_REMEDY) from error
    before = session.metadata.get("converter")
    converter = f"{before}, {CONVERTER}" if before else CONVERTER
    label = Label(name, stage, source.name, converter, source.dictionary)
    model.graph.name = name
    onnx.helper.set_model_props(model, {**session.metadata, **label.metadata()})
    plain = None
    if rewrite is not None:
        plain = to_bytes(model)
        model = rewrite(model, stage)
    opset = max(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return Converted(to_bytes(model), label, classes, opset=opset, plain=plain)


def _compare(source: Source, file: Path, stage: Stage, grid: list[tuple[int, int, int]], name: str) -> Report:
    """Run original and result side by side; raise where they differ."""
    try:
        comparisons = parity.compare_onnx(source.program, file, stage, grid, "rewritten")
    except ModelError as error:
        raise ConversionError(
            str(source.program),
            f"does not survive the rewrites ({error})",
            "export it with --stock and report the model",
        ) from error
    report = replace(
        parity.describe(source, stage, {"rewritten": file}, model=name, comparisons=comparisons),
        reference="the original",
    )
    if not report.passed:
        worst = max(comparisons, key=lambda one: (1.0 - one.agreement, one.max_abs))
        raise ConversionError(
            str(source.program),
            f"rewritten differs from the original by {worst.max_abs:.1e} and agrees to "
            f"{100 * worst.agreement:.2f} % ({worst.kind}, shape {list(worst.shape)})",
            "export it with --stock and report the model",
        )
    return report
