"""The command line: arguments in, results on stdout, everything else on stderr, an exit code out."""

import importlib.util
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ocr_onnx
from ocr_onnx.console import download_progress, page_progress, say
from ocr_onnx.errors import DependencyError, InputError, OcrError, OptionError
from ocr_onnx.formats import Format, chunks, page_name
from ocr_onnx.options import ModelOptions

if TYPE_CHECKING:
    from ocr_onnx.config import Config
    from ocr_onnx.data import PageResult
    from ocr_onnx.model_store import FileStatus, Make, ModelSpec, Progress

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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr.")]
AllowUnpinned = Annotated[
    bool,
    typer.Option("--allow-unpinned", help="Also download files whose SHA-256 nobody has published."),
]


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
        "cls.enabled": True if cls_model and not _sets(assignments, "cls.enabled") else None,
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


@app.command()
def export(
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
    )
    with download_progress(quiet=quiet) as progress:
        access = command.Access(allow_unpinned, offline, progress, None if quiet else _warn)
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
    allow_unpinned: AllowUnpinned = False,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Fetch the models of a set that are not on this machine yet, and print where all of them lie.

    A model that nobody publishes as ONNX is converted here, which needs 'ocr-onnx[export]'.
    """
    for name in names or [ModelOptions().name]:
        options = _model_options(model_dir, name, offline=offline)
        _print_paths(options, quiet=quiet, allow_unpinned=allow_unpinned)


@models_app.command("verify")
def verify_models(
    name: Annotated[str | None, typer.Argument(metavar="[SET]", help="Model set. [default: all]")] = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also run the golden tensors beside each model and name the first step that differs.",
        ),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Device that --deep runs the models on. [default: cpu]"),
    ] = None,
    model_dir: ModelFolder = None,
) -> None:
    """Compare every model file on this machine with the SHA-256 of the manifest."""
    from ocr_onnx import model_store

    if device is not None and not deep:
        raise OptionError("--device", "is of no use without --deep", "add --deep")
    statuses = model_store.verify(_model_options(model_dir), name)
    for status in statuses:
        typer.echo(f"{status.state:8}  {status.spec.name:28}  {status.path or ''}".rstrip())
    passed = all(status.state in ("ok", "missing") for status in statuses)
    if deep:
        passed = _verify_deep([one for one in statuses if one.state == "ok"], device or "cpu") and passed
    if not passed:
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


def _print_paths(options: ModelOptions, *, quiet: bool, allow_unpinned: bool = False) -> None:
    from ocr_onnx import model_store

    with download_progress(quiet=quiet) as progress:
        make = _maker(progress, offline=options.offline, quiet=quiet, allow_unpinned=allow_unpinned)
        files = model_store.resolve(options, progress, make)
    for file in (files.det, files.rec, files.cls):
        typer.echo(str(file.path))


def _verify_deep(statuses: "Sequence[FileStatus]", device: str) -> bool:
    """Run the golden tensors of every model, print a line for each step, and tell whether all agree."""
    from ocr_onnx import golden

    first = None
    for status in statuses:
        spec = status.spec
        steps = golden.check_file(spec.name, spec.stage, status.path, device) if status.path else None
        if steps is None:
            typer.echo(f"{'':8}  {spec.name:28}  no golden tensors")
            continue
        for step in steps:
            verdict = "ok" if step.passed else "differs"
            figures = f"max difference {step.max_abs:.2g}, agreement {100 * step.agreement:.2f} %"
            truth = f", against {step.truth}" if step.stage == "network" else ""
            typer.echo(f"{verdict:8}  {step.model:28}  {step.stage:9}  {figures}{truth}")
        first = first or next((step for step in steps if not step.passed), None)
    if first is not None:
        typer.echo(
            f"first difference: {first.model} at {first.stage}, by {first.max_abs:.2g} from {first.truth}"
        )
    return first is None


def _need_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise DependencyError("onnx", "is not installed", "install 'ocr-onnx[export]'")


def _warn(message: str) -> None:
    say("warning", message)


def _maker(
    progress: "Progress", *, offline: bool, quiet: bool, allow_unpinned: bool = False
) -> "Make | None":
    """Return what converts a model that nobody publishes as ONNX; None where the extra is not installed."""
    if importlib.util.find_spec("onnx") is None:
        return None

    def make(spec: "ModelSpec") -> None:
        from ocr_onnx_export import command

        if not quiet:
            say("converting", f"{spec.name}, once: no ready ONNX file of it is published")
        command.make(spec, command.Access(allow_unpinned, offline, progress, None if quiet else _warn))

    return make


def _read_all(
    inputs: Sequence[str],
    config: "Config",
    output_format: Format,
    save_path: Path | None,
    workers: int,
    quiet: bool,
) -> bool:
    """Read every input, write each page's result as it is done, and tell whether all went well."""
    from ocr_onnx import model_store
    from ocr_onnx.engine import Engine

    failed = 0

    def report(error: OcrError) -> None:
        nonlocal failed
        failed += 1
        say("error", error)

    if save_path is not None:
        _make_folder(save_path)
    with download_progress(quiet=quiet) as progress:
        make = _maker(progress, offline=config.models.offline, quiet=quiet)
        model_store.resolve(config.models, progress, make)
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
            _write(chunk)
    if failed and count + failed > 1:
        say("done", f"{count} {'page' if count == 1 else 'pages'} read, {failed} failed")
    return not failed


def _write(chunk: str) -> None:
    try:
        sys.stdout.write(chunk)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # the reader has seen enough: typer ends the run
    except OSError as error:
        # what stays in the buffer would fail once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            "standard output", f"can't be written ({reason})", "make room, or write elsewhere"
        ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OptionError(str(folder), f"can't be made ({reason})", "give another --save-path") from error


def _sets(assignments: Sequence[str] | None, key: str) -> bool:
    return any(assignment.partition("=")[0].strip() == key for assignment in assignments or ())


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
