"""`ocr-onnx models`: what is on this machine, fetched, checked, found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ocr_onnx.cli.options import AllowUnpinned, ModelFolder, Offline, Quiet, maker
from ocr_onnx.console import download_progress
from ocr_onnx.errors import OptionError
from ocr_onnx.options import ModelOptions

if TYPE_CHECKING:
    from ocr_onnx.model_store import FileStatus

models_app = typer.Typer(
    help="List, fetch and check model files.", no_args_is_help=True, rich_markup_mode=None
)


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
        make = maker(progress, offline=options.offline, quiet=quiet, allow_unpinned=allow_unpinned)
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
