"""What flows through the pipeline: pages in, detections and lines between, results out."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

ImageBgr: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8, channels blue, green, red, C-contiguous."""

F32Array: TypeAlias = NDArray[np.float32]

Point: TypeAlias = tuple[float, float]
"""x and y in pixels of the page."""

Quad: TypeAlias = tuple[Point, Point, Point, Point]
"""Four corners, clockwise as seen, from the top left of the text."""

Angle: TypeAlias = Literal[0, 180]


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One decoded picture.

    `image` is (H, W, 3) uint8 BGR. `source` is the path or URL it came from, or a name for what
    has neither ("<bytes>"). `index` is the zero-based page of a PDF or the frame of a TIFF, GIF
    or WebP; None for a plain image. `scale_xy` is image pixels per unit of the source: (1, 1) for
    images, dpi / 72 for a PDF, whose unit is the point.
    """

    image: ImageBgr
    source: str
    index: int | None = None
    scale_xy: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Text regions of one page: parallel arrays, reordered only together.

    `quads_px` is (N, 4, 2) float32 in page pixels, clockwise from the top left. `scores` is (N,)
    float32 in 0..1. `outlines_px` holds, for box type "polygon", N arrays (K, 2) float32 that
    follow the text's outline; for "quad" it is empty and the quad is the outline. `unseen` counts
    the candidates beyond `det.max_candidates`, which nobody looked at.
    """

    quads_px: F32Array
    scores: F32Array
    outlines_px: tuple[F32Array, ...] = ()
    unseen: int = 0

    def __len__(self) -> int:
        return len(self.quads_px)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Self:
        """Return the detections `rows`, in that order."""
        index = np.asarray(rows, dtype=np.intp)
        outlines = tuple(self.outlines_px[row] for row in index) if self.outlines_px else ()
        return type(self)(self.quads_px[index], self.scores[index], outlines, self.unseen)


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line of text, in plain Python numbers.

    `rec_score` is the mean probability of the line's characters, `rec_min_score` that of its
    least certain one (both 0.0 for an empty text); `det_score` the mean of the probability map
    inside the region. `quad_px` and `outline_px` are in page pixels; the outline equals the quad
    unless polygons were asked for. `angle` is what the text-line classifier turned back.
    """

    text: str
    rec_score: float
    rec_min_score: float
    det_score: float
    quad_px: Quad
    outline_px: tuple[Point, ...]
    angle: Angle = 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a result came about.

    `models` maps stage ("det", "cls", "rec") to "name@sha256", `device` is the device that ran
    ("cpu", "cuda:0", several as "cuda:0,1"), `provider` ONNX Runtime's name for it, `det_scale_xy` the
    detector's input pixels per page pixel, `version` that of ocr-onnx, `precision` what the networks
    computed in.
    `fallback` is empty, or tells which device was asked for and why it could not be used, where
    `allow_fallback` let a slower one run: "cuda:0: the NVIDIA driver was not found".
    """

    models: tuple[tuple[str, str], ...]
    device: str
    provider: str
    det_scale_xy: tuple[float, float]
    version: str
    precision: str = "fp32"
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class PageResult:
    """The text of one page, lines in reading order.

    No text is an empty `lines`, never None and never an exception. `filtered` counts the lines
    that `drop_score` kept out. `warnings` are sentences about what may have cost text (a scale
    far below the page's own, more regions than were looked at). `image` is the page itself, for `plot`
    and `save_to_img`; it takes no part in comparison, and `dataclasses.replace(result,
    image=None)` lets go of it.
    """

    lines: tuple[TextLine, ...]
    width_px: int
    height_px: int
    source: str
    index: int | None = None
    filtered: int = 0
    warnings: tuple[str, ...] = ()
    provenance: Provenance | None = None
    image: ImageBgr | None = field(default=None, repr=False, compare=False)

    # The forms of a result live in render.py, which also draws; it is loaded when first asked for.

    @property
    def text(self) -> str:
        """The lines' texts, joined by newlines; regions that held no text are left out."""
        from ocr_onnx import render

        return render.to_text(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the image in plain Python types; see `render.to_dict`."""
        from ocr_onnx import render

        return render.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PageResult":
        """Read back what `to_dict` returned. Raises `InputError` for anything else."""
        from ocr_onnx import render

        return render.from_dict(data)

    def to_reference(self) -> dict[str, Any]:
        """Return PaddleX's keys: input_path, dt_polys (whole pixels), dt_scores, rec_text, rec_score."""
        from ocr_onnx import render

        return render.to_reference(self)

    def print(self, format_json: bool = True, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Print the reference form: as JSON, or as one line of Python if not `format_json`.

        What the terminal's encoding lacks is written as an escape.
        """
        from ocr_onnx import render

        reference = self.to_reference()
        text = (
            render.to_json(reference, indent=indent, ensure_ascii=ensure_ascii)
            if format_json
            else str(reference)
        )
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding))  # noqa: T201 - the reference prints

    def save_to_json(
        self,
        path: str | Path,
        indent: int = 4,
        ensure_ascii: bool = False,
        *,
        root: str | Path | None = None,
    ) -> Path:
        """Write the reference form to a file, or into a folder under the input's name; return the file.

        `render.output_path` says how files in a folder are named; with `root`, inputs below it keep
        their folders. Raises `OptionError` when the file can't be written.
        """
        from ocr_onnx import render

        return render.save_json(self, path, indent=indent, ensure_ascii=ensure_ascii, root=root)

    def save_to_img(
        self, path: str | Path, font: str | None = None, *, root: str | Path | None = None
    ) -> Path:
        """Write `plot` to a file, or as PNG into a folder under the input's name; return the file.

        `root` is that of `save_to_json`. Raises `InputError` without an image, `OptionError` for a
        format or path that can't be written and a font that can't be read.
        """
        from ocr_onnx import render

        return render.save_image(self, path, font, root)

    def plot(self, font: str | None = None) -> ImageBgr:
        """Draw the page with its boxes beside its text in place: (H, 2W, 3) uint8 BGR.

        `font` is a TrueType or OpenType file to use instead of the bundled one. Raises
        `InputError` without an image, `OptionError` for a font that can't be read.
        """
        from ocr_onnx import render

        return render.draw(self, font)
