"""Points -> the smallest rectangle around them."""

import cv2
import numpy as np

from ocr_onnx.data import F32Array


def min_area_quad(points: "cv2.typing.MatLike") -> tuple[F32Array, float]:
    """Return the smallest rectangle (4, 2) around points (K, 2), and its shorter side.

    It is clockwise from the top left: the two leftmost corners are the left edge, and on either
    edge the upper corner comes first, as in the reference's `get_mini_boxes`.
    """
    rectangle = cv2.minAreaRect(points)
    corners = np.asarray(cv2.boxPoints(rectangle), dtype=np.float32)
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = by_x[:2], by_x[2:]
    top_left, bottom_left = left if left[1, 1] > left[0, 1] else left[::-1]
    top_right, bottom_right = right if right[1, 1] > right[0, 1] else right[::-1]
    return np.array([top_left, top_right, bottom_right, bottom_left], dtype=np.float32), min(rectangle[1])
