"""Flags and helpers that several commands share."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocr_onnx.console import say
from ocr_onnx.errors import OptionError

if TYPE_CHECKING:
    from ocr_onnx.model_store import Make, ModelSpec, Progress

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
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="cpu, cuda[:i], tensorrt[:i], openvino or auto; cuda:0,1 shares the work among GPUs. "
        "[default: cpu]",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="Threads of one network run; 0 for all it may use. [default: 0]"),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="fp32; bf16 on openvino where the CPU has it; fp16 on a GPU. [default: fp32]"
    ),
]
AllowFallback = Annotated[
    bool,
    typer.Option(
        "--allow-fallback",
        help="Go on with a slower device where --device can't be used; a warning and the result say so.",
    ),
]
WarmUp = Annotated[
    bool,
    typer.Option(
        "--warm-up",
        help="Run the networks in all shapes before the first page, so that a GPU keeps none waiting.",
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr.")]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="File that holds the server's API key, alone."),
]
AllowUnpinned = Annotated[
    bool,
    typer.Option("--allow-unpinned", help="Also download files whose SHA-256 nobody has published."),
]

MAX_KEY_BYTES = 4096


def read_key(file: Path) -> str:
    """Return the API key that a file holds. Raises OptionError where it can't be read or holds none."""
    try:
        with file.open("rb") as stream:
            key = stream.read(MAX_KEY_BYTES).decode("ascii").strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OptionError(str(file), f"can't be read ({reason})", "give a file that holds the key") from error
    except UnicodeDecodeError as error:
        raise OptionError(str(file), "holds no key", "give a file that holds the key alone") from error
    if not key:
        raise OptionError(str(file), "is empty", "give a file that holds the key")
    return key


def warn(message: str) -> None:
    """Say a warning on stderr."""
    say("warning", message)


def maker(progress: "Progress", *, offline: bool, quiet: bool, allow_unpinned: bool = False) -> "Make | None":
    """Return what converts a model that nobody publishes as ONNX; None where the extra is not installed."""
    if importlib.util.find_spec("onnx") is None:
        return None

    def make(spec: "ModelSpec") -> None:
        from ocr_onnx_export import command

        if not quiet:
            say("converting", f"{spec.name}, once: no ready ONNX file of it is published")
        command.make(spec, command.Access(allow_unpinned, offline, progress, None if quiet else warn))

    return make
