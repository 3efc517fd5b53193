"""The bytes of a picture, a Pillow image or an array go in, (H, W, 3) BGR pages come out.

Pillow decodes everything and one rule turns each pixel format into eight-bit BGR, so the same
picture has the same pixels whatever container it comes in.
"""

import importlib
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocr_onnx.data import ImageBgr, Page
from ocr_onnx.errors import InputError, TooLargeError
from ocr_onnx.options import InputOptions
from ocr_onnx.page_range import select_pages

# An allow list: other formats of Pillow start programs (EPS), or can't be told by their content (TGA).
# Each with its module of Pillow, the most common first: loading all that Pillow has takes longer than
# decoding a page, so they are loaded one by one until one knows the picture.
FORMATS: Final[Mapping[str, str]] = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
    "PPM": "PpmImagePlugin",
    "TIFF": "TiffImagePlugin",
    "WEBP": "WebPImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "AVIF": "AvifImagePlugin",
}
_ANIMATED_FORMATS = ("AVIF", "GIF", "PNG", "WEBP")
_MAGIC_BYTES = 16  # what Pillow's own format tests look at
_BAND_PIXELS = 1 << 18  # fits the processor's cache
# Numbers of TIFF's tags. Pillow's names for them come with all of its TIFF module.
_BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION = 258, 262

# What Pillow's plugins raise on broken data, each in its own way.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def sniff(data: bytes) -> str | None:
    """Return which of `FORMATS` the first bytes announce, None for none of them."""
    prefix = data[:_MAGIC_BYTES]
    return next((name for name in FORMATS if _accepts(name, prefix)), None)


def _accepts(name: str, prefix: bytes) -> bool:
    with suppress(ImportError):  # AVIF came late to Pillow
        importlib.import_module(f"PIL.{FORMATS[name]}")
    accept = Image.OPEN[name][1] if name in Image.OPEN else None
    return accept is not None and accept(prefix) is True  # a text instead: support is not built in


def picture_pages(data: bytes, source: str, options: InputOptions) -> Iterator[Page | InputError]:
    """Decode the picture or pictures in one file; a frame that can't be decoded becomes an `InputError`.

    Raises
    ------
    InputError
        The bytes are no picture, or a broken one.
    """
    kind = sniff(data)
    if kind is None:
        raise InputError(
            source,
            "is no picture and no PDF",
            f"give one of {', '.join((*sorted(FORMATS), 'PDF'))}, whatever its name",
        )
    try:
        # Not Image.open: its pixel bound is a global of the process, and ours travels with the call.
        image = Image.OPEN[kind][0](io.BytesIO(data), "")
    except _BROKEN as error:
        raise _broken(source, error, kind) from error
    with image:
        yield from image_pages(image, source, options)


def image_pages(image: Image.Image, source: str, options: InputOptions) -> Iterator[Page | InputError]:
    """Turn a Pillow image into pages: all of a TIFF, all frames if asked for, else the current frame.

    The image ends at the frame it was at. That it lacks a page that was asked for is the last outcome.

    Raises
    ------
    InputError
        The frames can't be counted, or are more than `options.max_pages`.
    """
    try:
        home = image.tell()
        several = image.format in ("TIFF", *_ANIMATED_FORMATS) and getattr(image, "is_animated", False)
        whole = several and (image.format == "TIFF" or options.all_frames)
        count = getattr(image, "n_frames", 1) if whole else 1
    except _BROKEN as error:
        raise _broken(source, error, image.format) from error
    remedy = "set input.all_frames, or it counts as one page" if several and not whole else ""
    chosen, missing = select_pages(source, count, options, remedy)
    try:
        for index in chosen if whole else [home for _ in chosen]:
            subject = f"{source}, page {index + 1}" if whole else source
            outcome: Page | InputError
            try:
                outcome = Page(_frame(image, index, subject, options), source, index if several else None)
            except InputError as error:
                outcome = error
            yield outcome
        if missing is not None:
            yield missing
    finally:
        with suppress(*_BROKEN):
            image.seek(home)


def _frame(image: Image.Image, index: int, subject: str, options: InputOptions) -> ImageBgr:
    try:
        if index != image.tell():
            image.seek(index)
        check_pixels(*image.size, subject, options)
        image.load()
    except _BROKEN as error:
        raise _broken(subject, error, image.format) from error
    try:
        return _turn(_image_to_bgr(image, subject), _orientation(image))
    except (ImportError, *_BROKEN) as error:  # ImportError: Pillow was built without colour management
        problem = f"has pixels of Pillow's mode {image.mode} that can't be converted ({_cause(error)})"
        raise InputError(subject, problem, "save it as RGB or gray") from error


def _broken(subject: str, error: BaseException, kind: str | None) -> InputError:
    remedy = "the file is broken or cut off: replace it"
    if isinstance(error, SyntaxError):  # Pillow raises it for broken and for uncommon headers alike
        remedy = (
            "it is broken, cut off or of a pixel format that is not supported: save it as RGB or replace it"
        )
    return InputError(subject, f"can't be decoded as {kind or 'an image'} ({_cause(error)})", remedy)


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_pixels(
    width_px: int, height_px: int, subject: str, options: InputOptions, remedy: str = "shrink it"
) -> None:
    """Raise `InputError` for a picture without pixels or with more than `options.max_pixels`."""
    if width_px < 1 or height_px < 1:
        raise InputError(subject, f"is {width_px} x {height_px} pixels", "give a picture with pixels in it")
    if width_px * height_px > options.max_pixels:
        raise TooLargeError(
            subject,
            f"is {width_px} x {height_px} pixels, more than the limit of {options.max_pixels}",
            f"{remedy} or raise input.max_pixels",
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except _BROKEN:
        return 1  # metadata that can't be read does not make the picture unreadable


def _turn(image: ImageBgr, orientation: int) -> ImageBgr:
    """Undo an EXIF orientation (1 to 8; anything else counts as 1)."""
    if 5 <= orientation <= 8:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _image_to_bgr(image: Image.Image, subject: str) -> ImageBgr:
    if image.mode == "La":
        image = image.convert("LA")  # the one way out of this mode that Pillow knows
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return array_to_bgr(_deep_gray(image, subject), subject)
    keyed = "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    if keyed or image.mode in ("LA", "PA", "RGBA", "RGBa"):
        return _banded(image, "RGBA")
    return _banded(image, "RGB")


def _banded(image: Image.Image, mode: Literal["RGB", "RGBA"]) -> ImageBgr:
    """Convert an image by way of `mode`, band by band: each step would else hold the whole page anew."""
    width_px, height_px = image.size
    page = np.empty((height_px, width_px, 3), dtype=np.uint8)
    band_px = max(1, _BAND_PIXELS // width_px)
    for top in range(0, height_px, band_px):
        band = image.crop((0, top, width_px, min(height_px, top + band_px)))
        pixels = np.asarray(band.convert(mode))
        page[top : top + band_px] = _rgb_to_bgr(_on_white(pixels) if mode == "RGBA" else pixels)
    return page


def _deep_gray(image: Image.Image, subject: str) -> NDArray[np.uint8]:
    """Scale the levels of a gray image of more than eight bits to (H, W) uint8."""
    levels = np.asarray(image)
    low, high = levels.min(), levels.max()
    full = _full_scale(image, float(high))
    if not (low >= 0 and high <= full):  # written so that NaN fails
        raise InputError(
            subject, f"has levels from {low} to {high}", "scale them to 0..65535, or to 0..1 for floats"
        )
    if full == 1.0:
        gray = np.rint(levels * 255.0).astype(np.uint8)
    else:
        gray = (levels // ((full + 1) / 256)).astype(np.uint8)
    if _tiff_tags(image).get(_PHOTOMETRIC_INTERPRETATION) == 0:
        gray = ~gray  # white is zero, which Pillow heeds for eight bits only
    if isinstance(key := image.info.get("transparency"), int):
        gray[levels == key] = 255
    return gray


def _full_scale(image: Image.Image, high: float) -> float:
    """Return the level that means white.

    Pillow's modes "I" and "F" do not say: files use 16 bits or 0..1, `Image.convert` makes 0..255.
    """
    if image.mode.startswith("I;16"):
        return 4095.0 if _tiff_tags(image).get(_BITS_PER_SAMPLE) == (12,) else 65535.0
    if image.mode == "F" and high <= 1:
        return 1.0
    return 65535.0 if image.format in ("PNG", "PPM") or high > 255 else 255.0


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags by number; empty for all but files of TIFF."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def array_to_bgr(array: NDArray[Any], subject: str) -> ImageBgr:
    """Copy an array into a page's pixels.

    `array` is (H, W), (H, W, 1) gray, (H, W, 3) BGR or (H, W, 4) BGRA; uint8, uint16 (its high byte
    counts), bool (True is white) or floats in 0..1. Alpha is composed on white.

    Raises
    ------
    InputError
        Another shape or dtype, an empty array, floats outside of 0..1 or NaN.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            subject, f"has the shape {array.shape}", "give (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA"
        )
    if array.size == 0:
        raise InputError(subject, f"has the shape {array.shape}", "give an array with pixels in it")
    pixels = _eight_bits(array, subject)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.shape[2] == 4:
        return _on_white(pixels)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), order="C")


def _eight_bits(array: NDArray[Any], subject: str) -> NDArray[np.uint8]:
    kind, itemsize = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and itemsize == 1:
        return array
    if kind == "u" and itemsize == 2:
        # The high byte, as Pillow does it for 16-bit colour: one rule for every door.
        return (array >> 8).astype(np.uint8)
    if kind == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise InputError(subject, f"has floats from {low} to {high}", "scale them to 0..1, without NaN")
        scaled: NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
        return scaled
    raise InputError(subject, f"has the dtype {array.dtype}", "give uint8, uint16, bool or floats in 0..1")


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compose (H, W, 4), alpha last, on white: (H, W, 3), the other channels in their order."""
    if pixels[..., 3].min() == 255:  # as in most screenshots: the arithmetic would change nothing
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR), dtype=np.uint8)
    alpha = pixels[..., 3:].astype(np.uint16)
    # 255 * 255 + 127 fits into 16 bits; 127 rounds to nearest.
    mixed: NDArray[np.uint16] = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)


def _rgb_to_bgr(pixels: NDArray[np.uint8]) -> ImageBgr:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), dtype=np.uint8)
