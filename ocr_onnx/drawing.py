"""A page and its lines go in; the page with boxes beside the text drawn in its place comes out.

Colours are BGR. A line's text is drawn upright into a mask as large as its quad, and the mask is
warped onto the quad, so that size, slant and turn follow the page.
"""

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ocr_onnx.data import F32Array, ImageBgr, TextLine
from ocr_onnx.errors import OptionError

BUNDLED_FONT: Final = Path(__file__).with_name("fonts") / "wqy-microhei-subset.ttf"

# Dark enough to read on white, and neighbours in the list differ in hue: lines are coloured in turn.
PALETTE: Final = (
    (180, 90, 0),
    (40, 40, 200),
    (60, 120, 10),
    (150, 40, 130),
    (0, 85, 175),
    (120, 110, 0),
    (110, 20, 200),
    (20, 60, 110),
)
_WHITE: Final = (255, 255, 255)
_GREY: Final = (200, 200, 200)
_INK: Final = np.float32(24.0)

_OVERSAMPLE: Final = 2  # mask pixels per page pixel: the warp then averages instead of picking
_FILL: Final = 0.8  # font size per box height; the detector's boxes stand off the text by the rest
_MIN_SQUEEZE: Final = 0.65  # glyphs may get this narrow before the font gets smaller
_TALL: Final = 1.5  # height per width from which the pipeline takes a box for turned or vertical text

Mask = NDArray[np.uint8]


def draw(image: ImageBgr, lines: Sequence[TextLine], font: str | None = None) -> ImageBgr:
    """Draw boxes on a copy of `image` (H, W, 3) and, to its right, the texts on white.

    Returns (H, 2W, 3) uint8. `font` is the path of a font file; None is the bundled one, which
    covers ASCII, Latin-1 and the PP-OCRv4 dictionary. A character that a font lacks becomes a box.
    Raises `OptionError` for a font that can't be read.
    """
    face = _load(font)
    height, width = image.shape[:2]
    thickness = max(1, round(math.hypot(height, width) / 900))
    boxes, texts = image.copy(), np.full_like(image, 255)
    colours = [PALETTE[number % len(PALETTE)] for number in range(len(lines))]
    for line, colour in zip(lines, colours, strict=True):
        _outline(boxes, line, colour, thickness, casing=True)
        _outline(texts, line, colour, 1, casing=False)
    for line in lines:  # after all outlines, so that none crosses a text
        _write(texts, line, face)
    cv2.line(texts, (0, 0), (0, height - 1), _GREY, 1)
    return np.hstack((boxes, texts))


def _load(font: str | None) -> ImageFont.FreeTypeFont:
    try:
        # The basic layout draws the same with every build of Pillow
        return ImageFont.truetype(font or str(BUNDLED_FONT), 100, layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ValueError) as error:
        remedy = "give a .ttf, .otf or .ttc file, or none for the bundled font"
        raise OptionError(f"font {font}", f"can't be read ({error})", remedy) from error


def _outline(
    canvas: ImageBgr, line: TextLine, colour: tuple[int, int, int], thickness: int, *, casing: bool
) -> None:
    """Draw a line's outline; the casing, a white line beneath, keeps it visible on any ground."""
    points = _inside(np.asarray(line.outline_px or line.quad_px, dtype=np.float64), canvas)
    low_side = min(np.ptp(points, axis=0))
    thickness = int(np.clip(low_side // 8, 1, thickness))
    closed = [np.rint(points).astype(np.int32)]
    if casing and low_side > 4 * thickness:
        cv2.polylines(canvas, closed, True, _WHITE, thickness + 2, cv2.LINE_AA)
    cv2.polylines(canvas, closed, True, colour, thickness, cv2.LINE_AA)


def _inside(points: NDArray[np.float64], canvas: ImageBgr) -> NDArray[np.float64]:
    """Bound points to one page's size around the page, which keeps OpenCV's integers from overflow."""
    limit = np.asarray(canvas.shape[1::-1], dtype=np.float64)
    return np.clip(np.nan_to_num(points), -limit, 2 * limit)


def _write(canvas: ImageBgr, line: TextLine, face: ImageFont.FreeTypeFont) -> None:
    """Draw a line's text into its quad; a quad thinner than a pixel or off the page takes none."""
    quad = _inside(np.asarray(line.quad_px, dtype=np.float64), canvas).astype(np.float32)
    width, height = _sides(quad)
    text = " ".join(line.text.split())
    if not text or min(width, height) < 1 or cv2.contourArea(quad) < 1:
        return
    mask = _text_mask(text, width * _OVERSAMPLE, height * _OVERSAMPLE, line.angle, face)
    left, top = np.maximum(np.floor(quad.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(quad.max(axis=0)) + 1, canvas.shape[1::-1]).astype(int)
    if left >= right or top >= bottom:
        return
    # From -0.5, the outer edge of the first mask pixel: OpenCV counts from pixel centres
    right_edge, bottom_edge = mask.shape[1] - 0.5, mask.shape[0] - 0.5
    corners = [(-0.5, -0.5), (right_edge, -0.5), (right_edge, bottom_edge), (-0.5, bottom_edge)]
    onto = cv2.getPerspectiveTransform(
        np.array(corners, dtype=np.float32), quad - np.array([left, top], dtype=np.float32)
    )
    warped = cv2.warpPerspective(mask, onto, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
    cover = np.asarray(warped, dtype=np.float32)[..., np.newaxis] / 255.0
    patch = canvas[top:bottom, left:right]
    patch[:] = np.rint(patch * (1 - cover) + _INK * cover).astype(np.uint8)


def _sides(quad: F32Array) -> tuple[float, float]:
    """Return the longer of each pair of opposite sides: width and height of the upright text."""
    lengths = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    return float(max(lengths[0], lengths[2])), float(max(lengths[1], lengths[3]))


def _text_mask(text: str, width: float, height: float, angle: int, face: ImageFont.FreeTypeFont) -> Mask:
    """Draw `text` upright or turned, as the recogniser must have read it in a box of this shape.

    In a tall box Chinese, Japanese or Korean text and single characters stand one above the
    other; any other text runs downwards, turned clockwise. `angle` 180 turns either way further.
    """
    if height < _TALL * width:
        mask = _row_mask(text, width, height, face)
    elif len(text) == 1 or 2 * sum(map(_is_wide, text)) > len(text):
        mask = _column_mask(text, width, height, face)
    else:
        mask = np.rot90(_row_mask(text, height, width, face), -1)
    return np.ascontiguousarray(np.rot90(mask, angle // 90))


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _row_mask(text: str, width: float, height: float, face: ImageFont.FreeTypeFont) -> Mask:
    """Draw a row from the left edge. A long one gives a mask wider than asked, for the warp to squeeze."""
    length_per_px = face.getlength(text) / face.size
    size = min(_FILL * height, width / _MIN_SQUEEZE / max(length_per_px, 0.01))
    margin = (1 - _FILL) / 2 * size
    full_width = max(width, size * length_per_px + 2 * margin)
    mask = Image.new("L", (math.ceil(full_width), math.ceil(height)))
    sized = face.font_variant(size=max(1.0, size))
    ImageDraw.Draw(mask).text((margin, height / 2), text, fill=255, font=sized, anchor="lm")
    return np.asarray(mask)


def _column_mask(text: str, width: float, height: float, face: ImageFont.FreeTypeFont) -> Mask:
    """Draw the characters of `text` upright, one below the other, spread over the whole height."""
    step = height / len(text)
    widest_per_px = max(map(face.getlength, text)) / face.size
    size = min(_FILL * width / max(widest_per_px, 0.01), 0.95 * step)
    sized = face.font_variant(size=max(1.0, size))
    mask = Image.new("L", (math.ceil(width), math.ceil(height)))
    pen = ImageDraw.Draw(mask)
    for number, character in enumerate(text):
        pen.text((width / 2, (number + 0.5) * step), character, fill=255, font=sized, anchor="mm")
    return np.asarray(mask)
