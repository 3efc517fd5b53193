"""A device in; its memory in use, sessions that the engine would not open, and shapes to try on it."""

import ctypes
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ocr_onnx import contract, detect, model_store, recognize, runtime
from ocr_onnx.data import F32Array
from ocr_onnx.errors import DeviceError
from ocr_onnx.manifest import Stage
from ocr_onnx.model_store import ModelFile
from ocr_onnx.options import DetOptions, ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Array, Device, TensorInfo, find_device
from ocr_onnx_bench.soak import WORDS, resident_mib

Shape: TypeAlias = tuple[int, int, int]
"""Batch, height and width in pixels of a network's input."""

GPUS = ("cuda", "tensorrt")
MOBILE = ModelOptions(name="mobile", offline=True)
STEP_PX = 32
DET_SIDES_PX = (96, 2400)
REC_WIDTHS_PX = (160, 3200)
REC_BATCHES = (1, 16)
SMALL_SIDES_PX, SMALL_WIDTHS_PX, SMALL_BATCHES = (96, 480), (160, 640), (1, 2)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: on which device, on how much, and where models may lie beside the usual places."""

    device: str
    quick: bool = False
    model_dir: str = ""
    soak_pages: int = 2000
    seed: int = 1

    def size(self, full: int, quick: int) -> int:
        """Return how many shapes, pages or rounds a part takes."""
        return quick if self.quick else full

    @property
    def at(self) -> Device:
        """The device itself; raises what `find_device` does."""
        return find_device(self.device)


def without_tf32(device: str) -> RuntimeOptions:
    """Return the options that compute in whole float32, to compare with a CPU.

    TensorRT can be told so by NVIDIA_TF32_OVERRIDE=0 alone, for the whole process.
    """
    return RuntimeOptions(device=device, tf32=not device.startswith("cuda"))


def mobile_file(stage: Stage) -> ModelFile:
    """Return the embedded model of a stage, which is on every machine."""
    files = model_store.resolve(MOBILE)
    return {"det": files.det, "rec": files.rec, "cls": files.cls}[stage]


def memory_mib(device: Device) -> float:
    """Return the memory in use: of all the GPUs, or on a processor what this process has resident."""
    if device.kind not in GPUS:
        return resident_mib()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError as error:
        raise DeviceError(str(device), "no NVIDIA driver was found", "check `nvidia-smi`") from error
    return sum(gpu_used_mib(driver, one.index) for one in device.each)


def gpu_used_mib(driver: Any, index: int) -> float:
    """Ask CUDA's driver how much of a GPU is in use, by everybody.

    Its numbers are those that ONNX Runtime uses (CUDA_VISIBLE_DEVICES counts), unlike nvidia-smi's.
    """
    number, context, popped = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    statuses = [
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(number), index),
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number),
        driver.cuCtxPushCurrent_v2(context),
        driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)),
        driver.cuCtxPopCurrent_v2(ctypes.byref(popped)),
        driver.cuDevicePrimaryCtxRelease_v2(number),
    ]
    if any(statuses):
        status = next(status for status in statuses if status)
        problem = f"the driver does not tell how much memory is in use (error {status})"
        raise DeviceError(f"cuda:{index}", problem, "check `nvidia-smi`")
    return (total.value - free.value) / 2**20


def bare_session(path: Path, device: Device, changes: Mapping[str, str], *, defaults: bool = False) -> Any:
    """Open ONNX Runtime's session as the engine would not: with other options of CUDA's provider.

    `defaults` leaves everything as ONNX Runtime has it. On a processor there are no options to
    change, so a dry run opens the same session each time. Raises DeviceError where another provider runs.
    """
    ort = runtime.onnxruntime()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.enable_mem_pattern = defaults
    provider = runtime.PROVIDERS[device.kind]
    options: dict[str, str] = {}
    if device.kind in GPUS:  # TensorRT has no such options: its questions are put to CUDA
        provider, own = runtime.PROVIDERS["cuda"], runtime.provider_options(Device("cuda", device.index), 0)
        options = {"device_id": str(device.index), **({} if defaults else own), **changes}
    session = ort.InferenceSession(str(path), settings, providers=[(provider, options)], enable_fallback=0)
    active = session.get_providers()[0]
    if active != provider:
        raise DeviceError(
            str(device),
            f"ONNX Runtime chose {active} instead",
            "run `ocr-onnx doctor` to see what is missing",
        )
    return session


def random_shapes(stage: Stage, count: int, *, small: bool, seed: int = 1) -> tuple[Shape, ...]:
    """Return shapes as pages bring them, sides spread by ratio: strips and stamps as often as pages."""
    chance = random.Random(f"{stage} {seed}")  # noqa: S311 - reproducible, not secret

    def side(bounds: tuple[int, int]) -> int:
        length = float(np.exp(chance.uniform(*np.log(bounds))))
        return max(STEP_PX, round(length / STEP_PX) * STEP_PX)

    if stage == "det":
        sides = SMALL_SIDES_PX if small else DET_SIDES_PX
        return tuple((1, side(sides), side(sides)) for _ in range(count))
    widths, batches = (SMALL_WIDTHS_PX, SMALL_BATCHES) if small else (REC_WIDTHS_PX, REC_BATCHES)
    return tuple((chance.randint(*batches), recognize.HEIGHT_PX, side(widths)) for _ in range(count))


def as_engine(stage: Stage, shape: Shape) -> Shape:
    """Return what the engine's own bounds leave of a shape: tiles of a page, runs of not too many lines."""
    batch, height, width = shape
    if stage == "det":
        while height * width > DetOptions().tile_pixels:
            height, width = (height // 2, width) if height > width else (height, width // 2)
            height, width = (max(STEP_PX, one // STEP_PX * STEP_PX) for one in (height, width))
        return batch, height, width
    return max(1, min(batch, recognize.RUN_WIDTH_PX // width)), height, width


def drawn(stage: Stage, shape: Shape) -> NDArray[np.uint8]:
    """Return (N, h, w, 3) pictures of words: lines of text down a page, or one line each."""
    batch, height, width = shape
    images = np.full((batch, height, width, 3), 255, np.uint8)
    pitch = 60 if stage == "det" else height
    for number, image in enumerate(images):
        for row in range(max(1, height // pitch)):
            words = " ".join(WORDS[(number + row + step) % len(WORDS)] for step in range(1 + width // 120))
            origin = (8, round((row + 0.75) * pitch))
            cv2.putText(image, words, origin, cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 2, cv2.LINE_AA)
    return images


def feeds(inputs: Mapping[str, str], stage: Stage, shape: Shape) -> dict[str, Array]:
    """Return drawn pictures in a model's own form. `inputs` maps names to ONNX Runtime's types."""
    images = drawn(stage, shape)
    widths = np.full(shape[0], shape[2], np.int32)
    first, dtype = next(iter(inputs.items()))
    if dtype == "tensor(uint8)":
        lines: dict[str, Array] = {} if stage == "det" else {contract.VALID_WIDTH: widths}
        return {first: images, **lines}
    return {first: normalised(stage, images, widths)}


def normalised(stage: Stage, images: NDArray[np.uint8], widths: NDArray[np.int32]) -> F32Array:
    """Return the floats that a stock file takes."""
    return detect.normalise(images) if stage == "det" else recognize.normalise(images, widths)


def inputs_of(infos: tuple[TensorInfo, ...]) -> dict[str, str]:
    """Return a model's inputs as `feeds` takes them."""
    return {info.name: info.dtype for info in infos}


def inputs_of_bare(session: Any) -> dict[str, str]:
    """Return a bare session's inputs as `feeds` takes them."""
    return {info.name: info.type for info in session.get_inputs()}
