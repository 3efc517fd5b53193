"""A Paddle model's folder in, a folder for `--model-dir` out: the whole export on one screen."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ocr_onnx.errors import ModelContractError
from ocr_onnx.manifest import GateResult, ModelSpec, Stage
from ocr_onnx_export import golden, parity, publish
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.publish import Published
from ocr_onnx_export.reduce import Precision, reduced
from ocr_onnx_export.report import Report
from ocr_onnx_export.routes import Converted, Rewrite, Route, convert_source
from ocr_onnx_export.sources import Source
from ocr_onnx_export.unpack import open_source


def convert(
    source: Path,
    out: Path,
    *,
    route: Route = "light",
    name: str = "",
    dictionary: Path | None = None,
    known: ModelSpec | None = None,
    rewrite: Rewrite | None = None,
    precision: Precision = "fp32",
    gate_images: Path | None = None,
    verify: bool = False,
) -> Published:
    """Convert a Paddle inference model and publish it into the folder `out`.

    `source` is a folder with `inference.json` or `inference.pdmodel`, `inference.pdiparams` and,
    where there is one, `inference.yml`, or a tar archive of such a folder. `known` is the
    manifest's entry for an official model; a model without one is published together with a set of
    its own name, made complete with the mobile models. `rewrite` is given the
    converted graph and its stage. `verify` compares the result with Paddle; a lower `precision` is
    compared with what was verified, on drawn text and on the pictures in `gate_images`.

    The file is loaded and run before anything appears in `out`.

    Raises
    ------
    ModelError
        Any of the kinds `routes.convert_source` names, a result that differs from Paddle or fails
        the gate of its precision, or an `out` that can't be written.
    DependencyError
        Paddle is needed (a legacy program, the route "paddle2onnx", `verify`) and missing.
    """
    with open_source(source, dictionary) as model, publish.staging(out) as stage:
        if known is not None:  # whatever the folder happens to be called
            model = replace(model, name=known.official or known.name)
        name = known.name if known and not name else publish.file_name(name or model.name)
        converted = convert_source(model, name, route=route, rewrite=rewrite)
        _check_known(converted, known)
        path = stage / f"{name}.onnx"
        path.write_bytes(converted.data)
        report = _check(model, path, converted.label.stage, route, name, verify=verify)
        truth = golden.truth_of(model, converted, paddle=verify or route == "paddle2onnx")
        gates: tuple[GateResult, ...] = ()
        if precision != "fp32":
            path.unlink()
            converted, gates = reduced(converted, precision, gate_images)
            path = stage / f"{converted.label.name}.onnx"
            path.write_bytes(converted.data)
            report = replace(report, candidates={**report.candidates, precision: parity.file_facts(path)})
        golden.write_beside(path, converted.label.stage, truth, precision)
        spec = publish.describe_model(converted, path, name, known=known, precision=precision, gates=gates)
        return publish.lay_out(stage, out, converted, spec, report, own=known is None)


def _check_known(converted: Converted, known: ModelSpec | None) -> None:
    """Compare what came out with what the manifest says of the model."""
    if known is None:
        return
    if converted.label.stage != known.stage or known.classes not in (None, converted.classes):
        classes = f" with {converted.classes} classes" if converted.classes else ""
        raise ModelContractError(
            known.name,
            f"should be a {known.stage} model with {known.classes or 'no'} classes, but its files are a "
            f"{converted.label.stage} model{classes}",
            "give the files of that model",
        )


def _check(model: Source, path: Path, stage: Stage, route: str, name: str, *, verify: bool) -> Report:
    """Run the file at least once, and against Paddle where that is asked for."""
    candidates = {route: path}
    if verify:
        report = parity.compare(model, stage, candidates, parity.FULL_GRID[stage], model=name)
        if not report.passed:
            worst = max(report.comparisons, key=lambda one: (1.0 - one.agreement, one.max_abs))
            raise ConversionError(
                name,
                f"differs from Paddle by {worst.max_abs:.1e} and agrees to {100 * worst.agreement:.2f} % "
                f"({worst.kind}, shape {list(worst.shape)})",
                "convert it by the other --route and report the model",
            )
        return report
    batches = [sample.images for sample in parity.samples(parity.QUICK_GRID[stage])]
    for result in parity.onnx_runner(path, stage)(batches):
        if not np.isfinite(result.output).all():
            raise ConversionError(name, "puts out values that are not finite", "check the model's parameters")
    return parity.describe(model, stage, candidates, model=name)
