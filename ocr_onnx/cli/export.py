"""`ocr-onnx export`: a Paddle model or an ONNX file in, a model folder out."""

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ocr_onnx.cli.options import AllowUnpinned, Offline, Quiet, warn
from ocr_onnx.console import download_progress
from ocr_onnx.errors import DependencyError


class RouteChoice(StrEnum):
    """Values of `export --route`."""

    light = "light"
    paddle2onnx = "paddle2onnx"


class PrecisionChoice(StrEnum):
    """Values of `export --precision`."""

    fp32 = "fp32"
    fp16 = "fp16"
    fp16_storage = "fp16-storage"
    int8 = "int8"


class TargetChoice(StrEnum):
    """Values of `export --target`."""

    cpu = "cpu"
    gpu = "gpu"
    openvino = "openvino"


def export_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR|TAR|FILE.onnx",
            help="Official model or model set, or your own Paddle inference model or PP-OCR ONNX file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write, ready for --model-dir.")],
    route: Annotated[
        RouteChoice, typer.Option(help="light needs no Paddle (but for a legacy inference.pdmodel).")
    ] = RouteChoice.light,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            help="fp16 computes in half precision, for GPUs; fp16-storage halves the file only; int8 "
            "multiplies matrices in 8 bits. Each is compared with fp32 and refused if it differs."
        ),
    ] = PrecisionChoice.fp32,
    target: Annotated[
        TargetChoice | None,
        typer.Option(help="What the graph is rewritten for. [default: gpu for fp16, otherwise cpu]"),
    ] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="No rewrites: float input, the graph as converted.")
    ] = False,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of an own model. [default: its own]")] = "",
    dictionary: Annotated[
        Path | None,
        typer.Option("--dict", metavar="FILE", help="Dictionary of an own model, one character per line."),
    ] = None,
    local_source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="DIR",
            help="Files of the official model NAME, in place of a download; checked against the manifest.",
        ),
    ] = None,
    allow_unpinned: AllowUnpinned = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the result with Paddle, which must be installed.")
    ] = False,
    gate_images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Pictures with text: a lower precision is compared on them too, beside drawn text.",
        ),
    ] = None,
    from_onnx: Annotated[
        bool, typer.Option("--from-onnx", help="It is an ONNX file, whatever its name ends with.")
    ] = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Convert a model to ONNX, faster than stock, and print the path of every file made.

    DIR gets the ONNX file, a manifest.toml with its SHA-256 and a report; nothing if anything fails.
    """
    _need_onnx()
    from ocr_onnx_export import command

    recipe = command.Recipe(
        route.value,
        precision.value,
        target.value if target else None,
        stock,
        verify,
        gate_images,
    )
    with download_progress(quiet=quiet) as progress:
        access = command.Access(allow_unpinned, offline, progress, None if quiet else warn)
        made = command.export(
            source,
            out,
            recipe,
            access,
            name=name,
            dictionary=dictionary,
            source=local_source,
            from_onnx=from_onnx,
        )
    for published in made:
        typer.echo(str(published.path))


def _need_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise DependencyError("onnx", "is not installed", "install 'ocr-onnx[export]'")
