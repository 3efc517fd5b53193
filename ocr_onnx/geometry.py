"""Points -> the smallest rectangle around them."""

from operator import itemgetter

import cv2
import numpy as np

from ocr_onnx.data import F32Array


def min_area_quad(points: "cv2.typing.MatLike") -> tuple[F32Array, float]:
    """Return the smallest rectangle (4, 2) around points (K, 2), and its shorter side."""
    rectangle = cv2.minAreaRect(points)
    return clockwise_corners(rectangle), min(rectangle[1])


def clockwise_corners(rectangle: "cv2.typing.RotatedRect") -> F32Array:
    """Return the corners (4, 2) of a turned rectangle, clockwise from the top left.

    The two leftmost corners are the left edge, and on either edge the upper corner comes first, as
    in the reference's `get_mini_boxes`.
    """
    # Lists: numpy takes ten times as long to sort four points, and a page has hundreds of rectangles.
    a, b, c, d = sorted(cv2.boxPoints(rectangle).tolist(), key=itemgetter(0))
    top_left, bottom_left = (a, b) if b[1] > a[1] else (b, a)
    top_right, bottom_right = (c, d) if d[1] > c[1] else (d, c)
    return np.array([top_left, top_right, bottom_right, bottom_left], dtype=np.float32)
