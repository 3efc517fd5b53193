"""The command line: arguments in, results on stdout, everything else on stderr, an exit code out."""

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ocr_onnx
from ocr_onnx.console import download_progress, page_progress, say
from ocr_onnx.errors import OcrError, OptionError
from ocr_onnx.formats import Format, chunks, page_name
from ocr_onnx.options import ModelOptions

if TYPE_CHECKING:
    from ocr_onnx.config import Config
    from ocr_onnx.data import PageResult

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
models_app = typer.Typer(
    help="List, fetch and check model files.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(models_app, name="models")


ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file of options, see `ocr-onnx config`.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one option, e.g. det.box_thresh=0.5. Repeatable."),
]
ModelSet = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Model set, see `ocr-onnx models list`. [default: mobile]"),
]
ModelFolder = Annotated[
    str | None,
    typer.Option("--model-dir", metavar="DIR", help="Folder that is searched for models before the cache."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 something failed, 2 usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Text is UTF-8 whatever the locale. A file name that is not even that comes out escaped.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
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


@app.command()
def run(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Picture, PDF, folder, glob or http(s) address; - is standard input.",
            show_default=False,
        ),
    ],
    model_set: ModelSet = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="cpu, cuda[:i], tensorrt[:i], openvino or auto. [default: cpu]",
        ),
    ] = None,
    output_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="text; json: one array; jsonl: one object a page; tsv: one row a line of text; "
            "reference: one object a page, with PaddleX's keys.",
        ),
    ] = Format.text,
    save_path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also save a .json and a picture with the boxes for each page."),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads of one network run; 0 for all it may use. [default: 0]"),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Pages worked on at a time.")] = 1,
    model_dir: ModelFolder = None,
    offline: Offline = False,
    det_model: Annotated[
        str | None, typer.Option(metavar="FILE", help="Own detection model (ONNX) instead of the set's.")
    ] = None,
    rec_model: Annotated[
        str | None, typer.Option(metavar="FILE", help="Own recognition model (ONNX) instead of the set's.")
    ] = None,
    cls_model: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Own text-line classifier (ONNX); switches classification on."),
    ] = None,
    dictionary: Annotated[
        str | None,
        typer.Option("--dict", metavar="FILE", help="Dictionary of --rec-model, one character per line."),
    ] = None,
    pages: Annotated[
        str | None, typer.Option(metavar="RANGE", help='Pages to read, e.g. "1-3,7,10-". [default: all]')
    ] = None,
    dpi: Annotated[
        int | None, typer.Option(metavar="N", help="Resolution PDF pages are rendered at. [default: 200]")
    ] = None,
    password: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Password of encrypted PDF files.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Descend into folders.")] = False,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Read every frame of an animated GIF or WebP.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr; errors only.")
    ] = False,
) -> None:
    """Read the text of every INPUT and write it to stdout, page by page.

    Options on the command line win over those of --config, those win over the defaults.
    A bad input is reported on stderr and the others are read; the exit code is then 1.
    """
    from ocr_onnx.config import load

    flags: dict[str, object] = {
        "models.name": model_set,
        "models.det": det_model,
        "models.rec": rec_model,
        "models.cls": cls_model,
        "models.dictionary": dictionary,
        "models.folder": model_dir,
        "models.offline": offline or None,
        "runtime.device": device,
        "runtime.threads": threads,
        "input.pages": pages,
        "input.dpi": dpi,
        "input.password": password,
        "input.recursive": recursive or None,
        "input.all_frames": all_frames or None,
        "cls.enabled": True if cls_model else None,
    }
    effective = load(config, assignments or (), flags)
    if not _read_all(inputs, effective, output_format, save_path, workers, quiet):
        raise typer.Exit(1)


@app.command("config")
def show_config(
    config: ConfigFile = None,
    assignments: Assignments = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to FILE instead of standard output.")
    ] = None,
) -> None:
    """Print the whole effective configuration as YAML, ready for --config."""
    from ocr_onnx.config import load, to_yaml

    text = to_yaml(load(config, assignments or ()))
    if output is None:
        typer.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OptionError(str(output), f"can't be written ({reason})", "give another --output") from error


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


@models_app.command("list")
def list_models(model_dir: ModelFolder = None) -> None:
    """List the model sets and the models, and say which are on this machine."""
    from ocr_onnx import model_store

    manifest = model_store.load_manifest()
    for model_set in manifest.sets:
        typer.echo(f"set    {model_set.name:12}  {model_set.det} + {model_set.rec} + {model_set.cls}")
    for status in model_store.verify(_model_options(model_dir)):
        spec = status.spec
        size = "" if spec.size_bytes is None else f"{spec.size_bytes / 1e6:.1f} MB"
        where = f"{status.state}, {status.place}" if status.place else status.state
        typer.echo(f"model  {spec.stage:3}  {spec.name:28}  {size:>9}  {where}")


@models_app.command("pull")
def pull_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SET]...", help="Model sets. [default: mobile]")
    ] = None,
    model_dir: ModelFolder = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Fetch the models of a set that are not on this machine yet, and print where all of them lie."""
    for name in names or [ModelOptions().name]:
        _print_paths(_model_options(model_dir, name), quiet=quiet)


@models_app.command("verify")
def verify_models(model_dir: ModelFolder = None) -> None:
    """Compare every model file on this machine with the SHA-256 of the manifest."""
    from ocr_onnx import model_store

    statuses = model_store.verify(_model_options(model_dir))
    for status in statuses:
        typer.echo(f"{status.state:8}  {status.spec.name:28}  {status.path or ''}".rstrip())
    if any(status.state in ("corrupt", "unpinned") for status in statuses):
        raise typer.Exit(1)


@models_app.command("path")
def print_model_path(
    name: Annotated[
        str | None, typer.Argument(metavar="[SET]", help="Model set. [default: print the cache folder]")
    ] = None,
    model_dir: ModelFolder = None,
) -> None:
    """Print where the files of a model set lie, one per line, or where downloads are kept."""
    from ocr_onnx import model_store

    if name is None:
        typer.echo(str(model_store.cache_dir()))
    else:
        _print_paths(_model_options(model_dir, name, offline=True), quiet=True)


def _model_options(folder: str | None, name: str | None = None, *, offline: bool = False) -> ModelOptions:
    return ModelOptions(name=name or ModelOptions().name, folder=folder or "", offline=offline)


def _print_paths(options: ModelOptions, *, quiet: bool) -> None:
    from ocr_onnx import model_store

    with download_progress(quiet=quiet) as progress:
        files = model_store.resolve(options, progress)
    for file in (files.det, files.rec, files.cls):
        typer.echo(str(file.path))


def _read_all(
    inputs: Sequence[str],
    config: "Config",
    output_format: Format,
    save_path: Path | None,
    workers: int,
    quiet: bool,
) -> bool:
    """Read every input, write each page's result as it is done, and tell whether all went well."""
    from ocr_onnx.engine import Engine

    failed = 0

    def report(error: OcrError) -> None:
        nonlocal failed
        failed += 1
        say("error", error)

    with download_progress(quiet=quiet) as progress:
        engine = Engine.load(
            config.models,
            device=config.runtime.device,
            threads=config.runtime.threads,
            options=config.options,
            progress=progress,
        )
    count = 0
    root = None if save_path is None else _common_folder(inputs)
    with page_progress(quiet=quiet) as advance:

        def finished() -> Iterator["PageResult"]:
            nonlocal count
            for result in engine.stream(inputs, workers=workers, on_error=report):
                count += 1
                if save_path is not None:
                    _save(result, save_path, root, report)
                if not quiet:
                    for warning in result.warnings:
                        say("warning", f"{page_name(result)}: {warning}")
                yield result
                advance(page_name(result))

        for chunk in chunks(finished(), output_format, titled=not _is_one_source(inputs)):
            sys.stdout.write(chunk)
            sys.stdout.flush()
    if failed and count + failed > 1:
        say("done", f"{count} {'page' if count == 1 else 'pages'} read, {failed} failed")
    return not failed


def _save(result: "PageResult", folder: Path, root: str | None, report: Callable[[OcrError], None]) -> None:
    try:
        # The slash makes it a folder whatever its name ends with.
        result.save_to_json(f"{folder}/", root=root)
        result.save_to_img(f"{folder}/", root=root)
    except OcrError as error:
        report(error)


def _common_folder(inputs: Sequence[str]) -> str | None:
    """Return the folder that all local inputs lie in: saved files keep the folders below it."""
    local = [name for name in inputs if name != "-" and "://" not in name]
    # of a glob, the part before the first wildcard
    literal = [re.split(r"[*?\[]", name, maxsplit=1)[0] for name in local]
    folders = [name if os.path.isdir(name) else os.path.dirname(name) for name in literal]  # noqa: PTH112, PTH120
    try:
        return os.path.commonpath(folders)
    except ValueError:  # none at all, or relative beside absolute
        return None


def _is_one_source(inputs: Sequence[str]) -> bool:
    """Tell whether the pages need no name: one file, one address or standard input."""
    if len(inputs) != 1:
        return False
    # Path.is_file would raise on a name that is too long; bad names are for inputs.py to report
    return inputs[0] == "-" or "://" in inputs[0] or os.path.isfile(inputs[0])  # noqa: PTH113
