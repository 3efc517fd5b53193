"""`ocr-onnx serve`: the engine behind HTTP, until it is told to stop."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ocr_onnx.cli.options import (
    AllowFallback,
    Assignments,
    ConfigFile,
    Device,
    ModelFolder,
    ModelSet,
    Offline,
    Precision,
    Threads,
    WarmUp,
)
from ocr_onnx.cli.run import load_engine
from ocr_onnx.errors import DependencyError, OptionError

MAX_KEY_FILE_BYTES = 1024 * 1024


def serve_pages(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all of them.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65_535, help="Port; 0 for a free one.")] = 8080,
    model_set: ModelSet = None,
    device: Device = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    threads: Threads = None,
    precision: Precision = None,
    allow_fallback: AllowFallback = False,
    warm_up: WarmUp = False,
    model_dir: ModelFolder = None,
    offline: Offline = False,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=256,
            help="Pages read at a time. [default: one per processor, or four per GPU]",
            show_default=False,
        ),
    ] = 0,
    max_requests: Annotated[
        int, typer.Option(metavar="N", help="Requests under way, waiting ones included; then 503.")
    ] = 64,
    max_body_bytes: Annotated[int, typer.Option(metavar="N", help="Bound on the body of one request.")] = 72
    * 1024
    * 1024,
    max_held_bytes: Annotated[
        int, typer.Option(metavar="N", help="Bound on the bodies of all requests under way; then 503.")
    ] = 512 * 1024 * 1024,
    body_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="A body must have arrived within it; else 408.")
    ] = 30.0,
    request_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="An answer must be ready within it; else 504.")
    ] = 120.0,
    render_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="A page of a PDF must be rendered within it.")
    ] = 20.0,
    render_max_bytes: Annotated[
        int, typer.Option(metavar="N", help="Bound on the memory of a process that renders PDFs.")
    ] = 1024 * 1024 * 1024,
    shutdown_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long a shutdown waits for accepted requests.")
    ] = 120.0,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch http(s) addresses that clients give, public ones.")
    ] = False,
    url_hosts: Annotated[
        str, typer.Option(metavar="HOSTS", help="With --allow-urls: only these hosts, split by commas.")
    ] = "",
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Clients must send one of the keys in FILE, one per line."),
    ] = None,
    cors_origins: Annotated[
        str, typer.Option(metavar="ORIGINS", help="Pages of these origins may call, split by commas.")
    ] = "",
) -> None:
    """Serve POST /ocr, POST /v1/read and a page to try them, on http://127.0.0.1:8080.

    What one request may hold is bounded by input.max_bytes (50 MiB), input.max_pixels (50 million),
    input.max_pages (100), input.max_pdf_objects (500,000 a page) and input.timeout_s (20 s); set them with
    --set or --config.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        if importlib.util.find_spec(package) is None:
            raise DependencyError(package, "is not installed", "install 'ocr-onnx[serve]'")
    from ocr_onnx.config import load
    from ocr_onnx.service.app import create_app
    from ocr_onnx.service.server import serve
    from ocr_onnx.service.settings import INPUT_DEFAULTS, ServiceOptions, listed

    options = ServiceOptions(
        max_requests=max_requests,
        max_body_bytes=max_body_bytes,
        max_held_bytes=max_held_bytes,
        body_timeout_s=body_timeout,
        request_timeout_s=request_timeout,
        render_timeout_s=render_timeout,
        render_max_bytes=render_max_bytes,
        shutdown_timeout_s=shutdown_timeout,
        workers=workers,
        allow_urls=allow_urls,
        url_hosts=url_hosts,
        cors_origins=cors_origins,
    )
    if listed(url_hosts) and not allow_urls:
        raise OptionError("--url-hosts", "was given without --allow-urls", "give both, or neither")
    flags: dict[str, object] = {
        "models.name": model_set,
        "models.folder": model_dir,
        "models.offline": offline or None,
        "runtime.device": device,
        "runtime.threads": threads,
        "runtime.precision": precision,
        "runtime.allow_fallback": allow_fallback or None,
    }
    effective = load(config, assignments or (), flags, INPUT_DEFAULTS)
    app = create_app(
        lambda: load_engine(effective, warm_up=warm_up, quiet=False),
        options,
        keys=() if api_key_file is None else read_keys(api_key_file),
        model_set=effective.models.name,
    )
    serve(app, host, port, options)


def read_keys(file: Path) -> tuple[str, ...]:
    """Return the keys in a file, one per line; blank lines and those that begin with # are none.

    Raises OptionError for a file that can't be read or holds no key.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_KEY_FILE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(str(file), "can't be read as text", "give a file with one key per line") from error
    lines = (line.strip() for line in text.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise OptionError(
            str(file), "holds a key that is not plain ASCII", "make one by `openssl rand -hex 32`"
        )
    if not keys:
        raise OptionError(str(file), "holds no key", "write one key per line, made by `openssl rand -hex 32`")
    return keys
