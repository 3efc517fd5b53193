"""`ocr-onnx build-engines`: what TensorRT builds on first use, built ahead."""

import time
from dataclasses import replace
from itertools import product
from typing import Annotated

import typer

from ocr_onnx.cli.options import Assignments, ConfigFile, ModelFolder, ModelSet, Offline, Quiet, maker
from ocr_onnx.console import download_progress, say
from ocr_onnx.errors import OptionError


def build_engines(
    model_set: ModelSet = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE", help="tensorrt[:i[,j...]], with the numbers of the GPUs to build for."
        ),
    ] = "tensorrt:0",
    model_dir: ModelFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Build the TensorRT engines of a model set ahead, and list them; those that are there are kept.

    One line each: whether it was built, the stage's model, the group of shapes, seconds, size and folder.
    Engines hold for one model file, GPU architecture, TensorRT and ONNX Runtime, and lie in the cache
    folder (OCR_ONNX_CACHE_DIR). The line classifier's are built where cls.enabled is set.
    """
    from ocr_onnx import model_store
    from ocr_onnx.config import load
    from ocr_onnx.manifest import Stage
    from ocr_onnx.runtime import find_device, parse_device
    from ocr_onnx.runtime.engine_cache import size_bytes
    from ocr_onnx.runtime.tensorrt import TensorRtModel

    flags: dict[str, object] = {
        "models.name": model_set,
        "models.folder": model_dir,
        "models.offline": offline or None,
        "runtime.device": device,
    }
    effective = load(config, assignments or (), flags)
    if device == "auto" or parse_device(device).kind != "tensorrt":
        raise OptionError("--device", f"{device!r} has no engines to build", "give tensorrt[:i[,j...]]")
    find_device(device)  # before anything is downloaded
    with download_progress(quiet=quiet) as progress:
        make = maker(progress, offline=effective.models.offline, quiet=quiet)
        files = model_store.resolve(effective.models, progress, make)
    stages: list[tuple[Stage, model_store.ModelFile]] = [("det", files.det), ("rec", files.rec)]
    if effective.options.cls.enabled:
        stages.append(("cls", files.cls))

    def tell(message: str) -> None:
        if not quiet:
            say("engines", message)

    # of several GPUs, those of one architecture share their engines
    gpus = [replace(effective.runtime, device=str(one)) for one in parse_device(device).each]
    for (stage, file), runtime in product(stages, gpus):
        model = TensorRtModel(file.path, stage, runtime, tell)
        for group in model.groups:
            started = time.perf_counter()
            engine = model.prepare(group)
            verdict = "built" if engine.built else "kept"
            figures = f"{time.perf_counter() - started:7.1f} s  {size_bytes(engine.folder) / 1e6:8.1f} MB"
            typer.echo(f"{verdict:5}  {file.spec.name:28}  {engine.group:8}  {figures}  {engine.folder}")
