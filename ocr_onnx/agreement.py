"""FP16 files and a GPU in, leave to use them there out: the GPU has to give FP32's answers first.

Half precision on a GPU is fast and, for some model on some card, wrong: a detector whose batch norms
were not folded finds nothing, and old kernels overflowed. So the first use of a file on a kind of GPU
compares it with the float32 file, on the golden tensors beside it and on drawn text. What passed is
remembered per file, GPU architecture and version of ONNX Runtime.
"""

import functools
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ocr_onnx import classify, contract, detect, golden, golden_file, model_store, recognize, runtime
from ocr_onnx.data import F32Array
from ocr_onnx.drawing import BUNDLED_FONT
from ocr_onnx.errors import ModelError
from ocr_onnx.manifest import Stage
from ocr_onnx.model_store import ModelFile
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Device, driver, open_model

MIN_MASK_IOU = 0.99  # of every page
MIN_EQUAL = 0.999  # of the time steps of all lines; of all lines for cls
PAGES, PAGE_SIDE_PX = 6, 640
LINES, LINE_SIZE_PX = 256, (320, 48)  # 10,240 time steps, of which ten may differ
BATCH = 8
CHECK = 1  # raise it when samples or bars change: what was remembered is then asked again
WORDS = ("Boarding", "2024-11-22", "INVOICE", "No. 1834", "total 56.90", "quick fox", "Gate B7", "a@b.org")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far FP16 agreed with FP32: `value` (0..1) is the worst mask IoU, or the share of equal classes."""

    measure: str
    samples: int
    value: float
    bar: float

    @property
    def passed(self) -> bool:
        """Tell whether the bar was met; written so that NaN, and nothing measured, fail."""
        return self.samples > 0 and self.value >= self.bar


class Subject(NamedTuple):
    """What an agreement is valid for. `reference_sha256` is that of the file it was compared with."""

    sha256: str
    reference_sha256: str
    architecture: str
    onnxruntime: str
    check: int = CHECK


def require(
    stage: Stage, file: ModelFile, device: Device, options: RuntimeOptions, models: ModelOptions
) -> None:
    """Make sure that an FP16 file agrees with FP32 on a GPU, unless it is remembered that it does.

    Raises ModelError where it does not, or where nothing is there to compare with; what `open_model` does.
    """
    reference = reference_of(file, models)
    subject = Subject(
        file.sha256, reference.sha256, architecture(device), str(runtime.onnxruntime().__version__)
    )
    if _is_remembered(subject):
        return
    found = compare(stage, reference, file, options)
    failed = [one for one in found if not one.passed]
    if failed:
        told = "; ".join(f"{one.measure} {one.value:.4f}, and {one.bar} is needed" for one in failed)
        raise ModelError(
            file.spec.name,
            f"does not agree with float32 on {device} ({subject.architecture}): {told}",
            "use --precision fp32 on this GPU",
        )
    _remember(subject, found)


def reference_of(file: ModelFile, models: ModelOptions) -> ModelFile:
    """Return what an FP16 file is compared with: the float32 file of its name, on any shelf of this machine.

    A model of the user's own may have none here. Its export compared it with float32, so the file
    itself on the processor, which computes in float32, stands for that. ModelError without either.
    """
    found = model_store.at_hand(file.spec.name, "fp32", models)
    if found is None and not file.spec.gates:
        raise ModelError(
            file.spec.name,
            "has no float32 file on this machine to compare with, nor the gates of `ocr-onnx export`",
            "export it anew with --precision fp16, or use --precision fp32",
        )
    return found or file


def compare(
    stage: Stage, reference: ModelFile, file: ModelFile, options: RuntimeOptions
) -> tuple[Agreement, ...]:
    """Run an FP16 file with the options, and its reference on the processor; return how far they agree."""
    whole = open_model(reference.path, stage, RuntimeOptions())
    half = open_model(file.path, stage, options)
    name = str(file.path)
    if stage == "det":
        found = compare_det(
            contract.det_infer(whole, name), contract.det_infer(half, name), drawn_pages(PAGES)
        )
    elif stage == "rec":
        charset = recognize.charset_from(half.metadata, name)
        ours, theirs = (contract.rec_infer(one, name, len(charset)) for one in (whole, half))
        found = compare_rec(ours, theirs, drawn_lines(LINES, charset))
    else:
        lines = np.ascontiguousarray(drawn_lines(LINES)[:, :, : classify.WIDTH_PX])
        upside_down = np.ascontiguousarray(lines[:, ::-1, ::-1])
        found = compare_cls(
            contract.cls_infer(whole, name),
            contract.cls_infer(half, name),
            np.concatenate((lines, upside_down)),
        )
    return (found, *_golden(file, half))


def compare_det(reference: detect.Infer, half: detect.Infer, pages: NDArray[np.uint8]) -> Agreement:
    """Compare the masks of pages (N, h, w, 3), one by one; the worst counts."""
    overlaps = [mask_iou(reference(page), half(page)) for page in pages[:, np.newaxis]]
    return Agreement("mask IoU at worst", len(overlaps), min(overlaps, default=0.0), MIN_MASK_IOU)


def compare_rec(reference: recognize.Infer, half: recognize.Infer, lines: NDArray[np.uint8]) -> Agreement:
    """Compare the best class of every time step of lines (N, 48, w, 3)."""
    same: list[NDArray[np.bool_]] = []
    for batch in _batches(lines):
        widths = np.full(len(batch), batch.shape[2], np.int32)
        same.append((reference(batch, widths).labels == half(batch, widths).labels).ravel())
    return _share("equal time steps", same)


def compare_cls(reference: classify.Infer, half: classify.Infer, lines: NDArray[np.uint8]) -> Agreement:
    """Compare which way up lines (N, 48, 192, 3) are said to be."""
    same: list[NDArray[np.bool_]] = []
    for batch in _batches(lines):
        widths = np.full(len(batch), batch.shape[2], np.int32)
        same.append(reference(batch, widths).argmax(axis=1) == half(batch, widths).argmax(axis=1))
    return _share("equal lines", same)


def mask_iou(reference: F32Array, half: F32Array) -> float:
    """Return intersection over union of probability maps cut at 0.3; 1 if both are empty."""
    ours, theirs = half > golden.MASK_THRESHOLD, reference > golden.MASK_THRESHOLD
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def drawn_lines(count: int, characters: Sequence[str] = (), seed: int = 0) -> NDArray[np.uint8]:
    """Return (count, 48, 320, 3) noisy pictures of a line: words, and every other one of `characters`."""
    rng = np.random.default_rng(seed)
    drawable = [one for one in characters if one.strip()]
    pictures = []
    for number in range(count):
        mixed = number % 2 and drawable
        text = "".join(rng.choice(drawable, 8)) if mixed else " ".join(rng.choice(WORDS, 2))
        wide = Image.new("RGB", (int(_face(36).getlength(text)) + 8, LINE_SIZE_PX[1]), "white")
        ImageDraw.Draw(wide).text((4, LINE_SIZE_PX[1] / 2), text, fill="black", font=_face(36), anchor="lm")
        pictures.append(_noisy(wide.resize(LINE_SIZE_PX, Image.Resampling.BICUBIC), rng))
    return np.stack(pictures)


def drawn_pages(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return (count, 640, 640, 3) noisy pictures of pages with lines of several sizes."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        paper = Image.new("RGB", (PAGE_SIDE_PX, PAGE_SIDE_PX), "white")
        pen, top = ImageDraw.Draw(paper), 16
        while top < PAGE_SIDE_PX - 48:
            size_px = int(rng.integers(14, 44))
            text = " ".join(rng.choice(WORDS, int(rng.integers(1, 5))))
            pen.text((int(rng.integers(8, 160)), top), text, fill="black", font=_face(size_px))
            top += int(size_px * rng.uniform(1.4, 2.6))
        pictures.append(_noisy(paper, rng))
    return np.stack(pictures)


def _golden(file: ModelFile, half: runtime.Model) -> Iterator[Agreement]:
    """Yield what the golden tensors beside the file say of the network on this device, if there are any."""
    beside = golden_file.path_beside(file.path)
    if not beside.is_file():
        return
    for check in golden.check(str(file.path), half, golden_file.read(beside)):
        if check.stage == "network":
            measure = f"golden tensors (off by {check.max_abs:.1e})"
            yield Agreement(measure, 1, float(check.passed), 1.0)


def architecture(device: Device) -> str:
    """Return a GPU's architecture ("sm_90"); DeviceError where the driver does not tell."""
    major, minor = driver.ask().gpus[device.index].capability
    return f"sm_{major}{minor}"


def _is_remembered(subject: Subject) -> bool:
    """Tell whether this very subject passed before; a damaged or foreign file is as good as none."""
    try:
        content = json.loads(_file(subject).read_text(encoding="utf-8"))
        return bool(content["subject"] == subject._asdict())
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _remember(subject: Subject, found: Sequence[Agreement]) -> None:
    """Write what passed, at once or not at all; a cache that can't be written only costs the next start."""
    path = _file(subject)
    content = {"subject": subject._asdict(), "agreements": [asdict(one) for one in found]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".", suffix=".json", delete=False, encoding="utf-8"
        ) as part:
            json.dump(content, part, indent=2)
        Path(part.name).replace(path)
    except OSError as error:
        _LOG.warning("%s can't be written (%s): FP16 is compared again next time", path, error.strerror)


def _file(subject: Subject) -> Path:
    name = f"{subject.sha256[:16]}-{subject.architecture}-ort{subject.onnxruntime}.json"
    return model_store.cache_dir() / "fp16" / name


def _share(measure: str, same: Sequence[NDArray[np.bool_]]) -> Agreement:
    flat = np.concatenate(same) if same else np.empty(0, bool)
    return Agreement(measure, flat.size, float(flat.mean()) if flat.size else 0.0, MIN_EQUAL)


def _batches(pictures: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH))


def _noisy(picture: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return BGR with the noise of a camera: without it nothing is ever a close call."""
    pixels = np.asarray(picture, np.float32)[:, :, ::-1] + rng.normal(0, 3, (*picture.size[::-1], 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@functools.cache
def _face(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(BUNDLED_FONT), size_px, layout_engine=ImageFont.Layout.BASIC)
