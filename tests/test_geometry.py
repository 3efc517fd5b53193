"""The corners against the reference's own way to name them."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_onnx.geometry import clockwise_corners, min_area_quad


def reference_boxes(points: cv2.typing.MatLike) -> tuple[list[list[float]], float]:
    """Return what PaddleOCR's `get_mini_boxes` does."""
    rectangle = cv2.minAreaRect(points)
    corners = sorted(cv2.boxPoints(rectangle).tolist(), key=lambda corner: corner[0])
    first, fourth = (0, 1) if corners[1][1] > corners[0][1] else (1, 0)
    second, third = (2, 3) if corners[3][1] > corners[2][1] else (3, 2)
    return [corners[first], corners[second], corners[third], corners[fourth]], min(rectangle[1])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 99), st.integers(-9, 99)), min_size=1, max_size=12), st.booleans())
def test_smallest_rectangles_are_the_references(places: list[tuple[int, int]], whole: bool) -> None:
    points: cv2.typing.MatLike = np.array(places, np.int32) if whole else np.array(places, np.float32)
    quad, short_side = min_area_quad(points)
    assert (quad.tolist(), short_side) == reference_boxes(points)
    assert quad.dtype == np.float32


def test_corners_of_an_upright_rectangle_are_exact() -> None:
    corners = clockwise_corners(((10.0, 10.0), (10.0, 4.0), 0.0))
    assert corners.tolist() == [[5, 8], [15, 8], [15, 12], [5, 12]]
