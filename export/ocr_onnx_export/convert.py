"""A Paddle model's folder in, a folder for `--model-dir` out: the whole export on one screen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ocr_onnx.manifest import ModelSpec, Stage
from ocr_onnx_export import parity, publish
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.report import Report
from ocr_onnx_export.routes import Rewrite, Route, convert_source
from ocr_onnx_export.sources import Source
from ocr_onnx_export.unpack import open_source


@dataclass(frozen=True, slots=True)
class Published:
    """What an export wrote: the ONNX file, its manifest entry, and its report."""

    path: Path
    spec: ModelSpec
    report: Report


def convert(
    source: Path,
    out: Path,
    *,
    route: Route = "light",
    name: str = "",
    dictionary: Path | None = None,
    known: ModelSpec | None = None,
    rewrite: Rewrite | None = None,
    verify: bool = False,
) -> Published:
    """Convert a Paddle inference model and publish it into the folder `out`.

    `source` is a folder with `inference.json` or `inference.pdmodel`, `inference.pdiparams` and,
    where there is one, `inference.yml`, or a tar archive of such a folder. `known` is the
    manifest's entry for an official model; a model without one is published together with a set of
    its own name, made complete with the mobile models. `rewrite` is given the
    converted graph and its stage. `verify` compares the result with Paddle.

    The file is loaded and run before anything appears in `out`.

    Raises
    ------
    ModelError
        Any of the kinds `routes.convert_source` names, a result that differs from Paddle, or an
        `out` that can't be written.
    DependencyError
        Paddle is needed (a legacy program, the route "paddle2onnx", `verify`) and missing.
    """
    with open_source(source, dictionary) as model, publish.staging(out) as stage:
        name = known.name if known and not name else publish.file_name(name or model.name)
        converted = convert_source(model, name, route=route, rewrite=rewrite)
        path = stage / f"{name}.onnx"
        path.write_bytes(converted.data)
        report = _check(model, path, converted.label.stage, route, name, verify=verify)
        spec = publish.describe_model(converted, path, known)
        model_set = None if known else publish.set_with(spec)
        reports = stage / publish.REPORTS_FOLDER
        reports.mkdir()
        (reports / f"{name}.json").write_text(report.to_json(), encoding="utf-8")
        (reports / f"{name}.md").write_text(report.to_markdown(), encoding="utf-8")
        manifest = publish.updated_manifest(out, spec, model_set)
        (stage / publish.MANIFEST_FILE).write_text(manifest, encoding="utf-8")
    return Published(out / path.name, spec, report)


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
