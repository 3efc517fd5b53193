"""Drawn text: a font and characters in, pictures of lines and pages out, the same for the same seed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ocr_onnx.drawing import BUNDLED_FONT

WORDS = ("Boarding", "2024-11-22", "INVOICE", "No. 1834", "total 56.90", "quick fox", "Gate B7", "a@b.org")
LINE_SIZE_PX = (320, 48)
LINE_FONT_PX = 36
MARGIN_PX = 4
PAGE_SIDE_PX = 640


def lines(count: int, characters: Sequence[str] = (), seed: int = 0) -> NDArray[np.uint8]:
    """Return (count, 48, 320, 3) uint8 BGR pictures of one line each, dark on light, filled by its text.

    Every other line is made of `characters`, where there are any, the rest of words and numbers. A
    character that the font lacks is a box, which is a picture like any other.
    """
    generator = np.random.default_rng(seed)
    drawable = [one for one in characters if one.strip()]
    pictures = []
    for number in range(count):
        mixed = number % 2 and drawable
        text = "".join(generator.choice(drawable, 8)) if mixed else " ".join(generator.choice(WORDS, 2))
        face = _face(LINE_FONT_PX)
        wide, _, ink = _paper((int(face.getlength(text)) + 2 * MARGIN_PX, LINE_SIZE_PX[1]), generator)
        ImageDraw.Draw(wide).text((MARGIN_PX, LINE_SIZE_PX[1] / 2), text, fill=ink, font=face, anchor="lm")
        pictures.append(_scanned(wide.resize(LINE_SIZE_PX, Image.Resampling.BICUBIC), generator))
    return np.stack(pictures)


def pages(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return (count, 640, 640, 3) uint8 BGR pictures of pages with lines of several sizes."""
    generator = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        picture, pen, ink = _paper((PAGE_SIDE_PX, PAGE_SIDE_PX), generator)
        top = 16
        while top < PAGE_SIDE_PX - 48:
            size = int(generator.integers(14, 44))
            text = " ".join(generator.choice(WORDS, int(generator.integers(1, 5))))
            pen.text((int(generator.integers(8, 160)), top), text, fill=ink, font=_face(size))
            top += int(size * generator.uniform(1.4, 2.6))
        pictures.append(_scanned(picture, generator))
    return np.stack(pictures)


def _paper(
    size: tuple[int, int], generator: np.random.Generator
) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[int, ...]]:
    picture = Image.new("RGB", size, tuple(int(value) for value in generator.integers(190, 256, 3)))
    return picture, ImageDraw.Draw(picture), tuple(int(value) for value in generator.integers(0, 100, 3))


def _scanned(picture: Image.Image, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Add the noise of a camera: without it nothing is ever a close call."""
    pixels = np.asarray(picture, np.float32) + generator.normal(0, 3, (*picture.size[::-1], 3))
    return np.clip(pixels[:, :, ::-1], 0, 255).astype(np.uint8)


def _face(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(BUNDLED_FONT), size_px, layout_engine=ImageFont.Layout.BASIC)
