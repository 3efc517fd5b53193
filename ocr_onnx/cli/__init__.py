"""The command line: arguments in, results on stdout, everything else on stderr, an exit code out."""

import io
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import ocr_onnx
from ocr_onnx.cli.bench import bench_app
from ocr_onnx.cli.engines import build_engines
from ocr_onnx.cli.export import export_model
from ocr_onnx.cli.models import models_app
from ocr_onnx.cli.options import Assignments, ConfigFile
from ocr_onnx.cli.run import read_inputs
from ocr_onnx.cli.serve import serve_pages
from ocr_onnx.console import say
from ocr_onnx.errors import OcrError, OptionError

# Only typer and what is light is imported up here: numpy, OpenCV and ONNX Runtime cost half a second,
# which `--help` and a mistyped option need not pay. Rich would double the cost of typer for the help.
app = typer.Typer(
    name="ocr-onnx",
    help="Read the text of pictures and PDF files with PP-OCRv4 on ONNX Runtime.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(read_inputs)
app.command("serve")(serve_pages)
app.add_typer(models_app, name="models")
app.command("export")(export_model)
app.command("build-engines")(build_engines)
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 something failed, 2 usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Text is UTF-8 whatever the locale. A file name that is not even that comes out escaped.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    # Pillow warns of oddities in pictures that it reads all the same; what it can't read is our error.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        app(arguments, prog_name="ocr-onnx")
    except OcrError as error:
        say("error", error)
        sys.exit(2 if isinstance(error, OptionError) else 1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ocr-onnx {ocr_onnx.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Read the text of pictures and PDF files with PP-OCRv4 on ONNX Runtime."""


@app.command("config")
def show_config(
    config: ConfigFile = None,
    assignments: Assignments = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to FILE instead of standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Print the whole effective configuration as YAML, ready for --config."""
    from ocr_onnx.config import load, save, to_yaml

    effective = load(config, assignments or ())
    if output is None:
        typer.echo(to_yaml(effective), nl=False)
    else:
        save(effective, output, overwrite=force)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
) -> None:
    """Check this installation: packages, ONNX Runtime, devices, models, threads and the cache folder."""
    from ocr_onnx.doctor import examine

    checks = examine()
    healthy = all(check.state != "broken" for check in checks)
    if as_json:
        report = {"healthy": healthy, "checks": [asdict(check) for check in checks]}
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for check in checks:
            remedy = f"; {check.remedy}" if check.remedy else ""
            typer.echo(f"{check.state:6}  {check.topic:8}  {check.name:24}  {check.detail}{remedy}")
    if not healthy:
        raise typer.Exit(1)
