"""Line images -> how far each is turned: 0 or 180 degrees. Pure: inference is passed in."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ocr_onnx.data import Angle, F32Array, ImageBgr
from ocr_onnx.options import ClsOptions

Infer: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.int32]], F32Array]
"""(N, 48, 192, 3) uint8 BGR and (N,) widths that hold text -> (N, 2) probabilities of 0 and 180."""

HEIGHT_PX = 48
WIDTH_PX = 192


def angles(lines: Sequence[ImageBgr], infer: Infer, options: ClsOptions) -> list[Angle]:
    """Return by how much each line image (h, w, 3) is turned.

    As PaddleOCR's `TextClassifier`: a line wider than the network's input is squeezed into it, and
    180 needs `options.thresh`, so that a line in doubt stays as it is.
    """
    found: list[Angle] = []
    for start in range(0, len(lines), options.batch_size):
        batch = lines[start : start + options.batch_size]
        images = np.zeros((len(batch), HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
        content = np.array([_content_width_px(line) for line in batch], dtype=np.int32)
        for image, line, width in zip(images, batch, content.tolist(), strict=True):
            image[:, :width] = cv2.resize(line, (width, HEIGHT_PX), interpolation=cv2.INTER_LINEAR)
        turned = infer(images, content)[:, 1] >= options.thresh
        found.extend(180 if upside_down else 0 for upside_down in turned)
    return found


def upright(line: ImageBgr, angle: Angle) -> ImageBgr:
    """Turn a line image by `angle`, as a contiguous array."""
    return np.ascontiguousarray(line[::-1, ::-1]) if angle == 180 else line


def _content_width_px(line: ImageBgr) -> int:
    height, width = line.shape[:2]
    full_width: int = math.ceil(HEIGHT_PX * (width / height))
    return max(1, min(WIDTH_PX, full_width))
