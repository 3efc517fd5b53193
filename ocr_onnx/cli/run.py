"""`ocr-onnx run`: inputs in, the text of every page on stdout."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ocr_onnx.cli.options import (
    AllowFallback,
    ApiKeyFile,
    Assignments,
    ConfigFile,
    Device,
    ModelFolder,
    ModelSet,
    Offline,
    Precision,
    Threads,
    WarmUp,
    maker,
    read_key,
)
from ocr_onnx.console import download_progress, page_progress, say
from ocr_onnx.errors import InputError, OcrError, OptionError
from ocr_onnx.formats import Format, chunks, page_name

if TYPE_CHECKING:
    from ocr_onnx.client import Client
    from ocr_onnx.config import Config, Setting
    from ocr_onnx.data import PageResult
    from ocr_onnx.engine import Engine
    from ocr_onnx.wire import Sections

FILES_AT_A_SERVER = 4  # at a time, unless told
OF_THE_SERVER = "can't be chosen with --server, whose models and device are its own"


def read_inputs(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Picture, PDF, folder, glob or http(s) address; - is standard input.",
            show_default=False,
        ),
    ],
    model_set: ModelSet = None,
    device: Device = None,
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
    threads: Threads = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=256,
            help="Pages worked on at a time; with --server, files. [default: one per processor, "
            "four per GPU or server]",
            show_default=False,
        ),
    ] = 0,
    precision: Precision = None,
    allow_fallback: AllowFallback = False,
    warm_up: WarmUp = False,
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
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Let the ocr-onnx server at URL read, with its models and its device."
        ),
    ] = None,
    api_key_file: ApiKeyFile = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr; errors only.")
    ] = False,
) -> None:
    """Read the text of every INPUT and write it to stdout, page by page.

    Options on the command line win over those of --config, those win over the defaults.
    A bad input is reported on stderr and the others are read; the exit code is then 1.
    """
    from ocr_onnx.config import build, given

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
        "runtime.precision": precision,
        "runtime.allow_fallback": allow_fallback or None,
        "input.pages": pages,
        "input.dpi": dpi,
        "input.password": password,
        "input.recursive": recursive or None,
        "input.all_frames": all_frames or None,
        "cls.enabled": True if cls_model and not _sets(assignments, "cls.enabled") else None,
    }
    settings = given(config, assignments or (), flags)
    effective = build(settings)
    remote = None
    if server is not None:
        sections = _sections(settings, effective, warm_up=warm_up)
        remote = Remote(server, _key_of(api_key_file), sections, images=save_path is not None)
    elif api_key_file is not None:
        raise OptionError("--api-key-file", "is of use with --server only", "give both, or neither")
    if not _read_all(inputs, effective, output_format, save_path, workers, warm_up, quiet, remote):
        raise typer.Exit(1)


class Remote(NamedTuple):
    """A server, its key, and what its requests ask for."""

    url: str
    api_key: str
    sections: "Sections"
    images: bool


class Connected(NamedTuple):
    """A client that streams as an engine does."""

    client: "Client"
    remote: Remote

    def stream(
        self, inputs: Sequence[str], *, workers: int, on_error: Callable[[OcrError], None]
    ) -> "Iterator[PageResult]":
        """Let the server read."""
        return self.client.stream(
            inputs,
            options=self.remote.sections,
            workers=workers or FILES_AT_A_SERVER,
            on_error=on_error,
            images=self.remote.images,
        )


def _key_of(file: Path | None) -> str:
    return "" if file is None else read_key(file)


def _sections(settings: "Sequence[Setting]", config: "Config", *, warm_up: bool) -> "Sections":
    """Return what was given, by section and checked; refuse what a request can't have."""
    if warm_up:
        raise OptionError("--warm-up", OF_THE_SERVER, "leave it out")
    found: dict[str, dict[str, object]] = {}
    for setting in settings:
        section, _, key = setting.key.partition(".")
        if section in ("models", "runtime"):
            raise OptionError(f"{setting.origin}: {setting.key}", OF_THE_SERVER, "leave it out")
        found.setdefault(section, {})[key] = getattr(getattr(config, section), key)
    return found


def _read_all(
    inputs: Sequence[str],
    config: "Config",
    output_format: Format,
    save_path: Path | None,
    workers: int,
    warm_up: bool,
    quiet: bool,
    remote: Remote | None = None,
) -> bool:
    """Read every input, write each page's result as it is done, and tell whether all went well."""
    failed = 0

    def report(error: OcrError) -> None:
        nonlocal failed
        failed += 1
        say("error", error)

    if save_path is not None:
        _make_folder(save_path)
    count = 0
    root = None if save_path is None else _common_folder(inputs)
    with ExitStack() as stack:
        engine = _opened(config, warm_up, quiet, remote, stack)
        advance = stack.enter_context(page_progress(quiet=quiet))

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


def _opened(
    config: "Config", warm_up: bool, quiet: bool, remote: Remote | None, stack: ExitStack
) -> "Engine | Connected":
    """Load an engine, or open a client and make sure that a server is there that takes the key."""
    if remote is None:
        return load_engine(config, warm_up=warm_up, quiet=quiet)
    from ocr_onnx.client import Client

    client = stack.enter_context(Client(remote.url, api_key=remote.api_key))
    client.models()
    return Connected(client, remote)


def load_engine(config: "Config", *, warm_up: bool, quiet: bool) -> "Engine":
    """Fetch and open the models; a warning tells of a device that is not the one asked for."""
    from ocr_onnx import model_store
    from ocr_onnx.engine import Engine

    with download_progress(quiet=quiet) as progress:
        make = maker(progress, offline=config.models.offline, quiet=quiet)
        model_store.resolve(config.models, progress, make)
        engine = Engine.load(
            config.models,
            device=config.runtime.device,
            threads=config.runtime.threads,
            precision=config.runtime.precision,
            allow_fallback=config.runtime.allow_fallback,
            gpu_memory_mib=config.runtime.gpu_memory_mib,
            tf32=config.runtime.tf32,
            options=config.options,
            progress=progress,
        )
    used = engine.provenance
    if used is not None and used.fallback and not quiet:
        say("warning", f"{used.fallback}; reading on {used.device} instead")
    if warm_up:
        done = engine.warm_up()
        if not quiet:
            say("warm-up", f"{done.runs} runs in {done.seconds:.1f} s")
    return engine


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
