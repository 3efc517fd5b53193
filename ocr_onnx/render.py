"""A `PageResult` goes in; text, TSV, JSON, the reference document's form or a drawn picture comes out.

Numbers are never rounded: scores and coordinates are written as they are, in the shortest form that
reads back as the same float. The one exception is `to_reference`, whose polygons are integers because
the reference's are.
"""

import json
import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any, Final, cast

import cv2
import numpy as np

from ocr_onnx import drawing
from ocr_onnx.data import Angle, ImageBgr, PageResult, Point, Provenance, TextLine
from ocr_onnx.errors import InputError, OptionError

SCHEMA: Final = 1
"""Version of what `to_dict` returns. It grows when a key changes its meaning or goes away."""

TSV_COLUMNS: Final = (
    *("source", "index", "line", "text", "rec_score", "rec_min_score", "det_score", "angle"),
    *("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"),
)

_TSV_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_MAX_SIDE_PX: Final = {
    ".bmp": 2**31 - 1,
    ".jpeg": 65_500,
    ".jpg": 65_500,
    ".png": 1_000_000,
    ".tif": 2**31 - 1,
    ".tiff": 2**31 - 1,
    ".webp": 16_383,
}
"""What a picture may be saved as, and how long its sides may be for OpenCV to write them."""
_UNSAFE: Final = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_MAX_NAME_BYTES: Final = 160  # leaves room for page, digest and suffix below the usual 255


def to_text(result: PageResult) -> str:
    """Join the lines' texts with newlines, without the regions that held no text."""
    return "\n".join(line.text for line in result.lines if line.text)


def to_tsv(result: PageResult, *, header: bool = True) -> str:
    r"""Write one row per line under the names of `TSV_COLUMNS`, each row ended by a newline.

    `index` is the zero-based page, empty for a plain image; `line` counts from 0. Backslash, tab,
    newline and carriage return inside a text or source are written as `\\`, `\t`, `\n`, `\r`.
    """
    rows: list[tuple[str, ...]] = [TSV_COLUMNS] if header else []
    page = "" if result.index is None else str(result.index)
    for number, line in enumerate(result.lines):
        scores = (line.rec_score, line.rec_min_score, line.det_score)
        corners = (coordinate for point in line.quad_px for coordinate in point)
        numbers = (*map(float, scores), line.angle, *map(float, corners))
        rows.append((result.source, page, str(number), line.text, *map(repr, numbers)))
    return "".join("\t".join(cell.translate(_TSV_ESCAPES) for cell in row) + "\n" for row in rows)


def to_dict(result: PageResult) -> dict[str, Any]:
    """Return the whole result but its image in plain Python types, fit for JSON.

    The key "schema" holds `SCHEMA`; points are [x, y] in page pixels. `from_dict` reads it back.
    """
    return {
        "schema": SCHEMA,
        "source": result.source,
        "index": result.index,
        "width_px": int(result.width_px),
        "height_px": int(result.height_px),
        "lines": [_line_dict(line) for line in result.lines],
        "filtered": int(result.filtered),
        "warnings": list(result.warnings),
        "provenance": None if result.provenance is None else _provenance_dict(result.provenance),
    }


def from_dict(data: Mapping[str, Any]) -> PageResult:
    """Read back what `to_dict` wrote, also after a way through JSON; `image` is None.

    Raises `InputError` for another schema, a missing key or a value of the wrong type.
    """
    remedy = f"give what PageResult.to_dict() of schema {SCHEMA} returned"
    schema = data.get("schema") if isinstance(data, Mapping) else None  # JSON may hold anything
    if schema != SCHEMA:
        raise InputError("result", f"has schema {schema!r}, not {SCHEMA}", remedy)
    try:
        return PageResult(
            lines=tuple(_line(line) for line in _list(data["lines"])),
            width_px=_integer(data["width_px"]),
            height_px=_integer(data["height_px"]),
            source=_string(data["source"]),
            index=None if data["index"] is None else _integer(data["index"]),
            filtered=_integer(data["filtered"]),
            warnings=tuple(_string(warning) for warning in _list(data["warnings"])),
            provenance=None if data["provenance"] is None else _provenance(data["provenance"]),
        )
    except KeyError as error:
        raise InputError("result", f"lacks the key {error}", remedy) from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError("result", f"holds a value of the wrong kind ({error})", remedy) from error


def to_reference(result: PageResult) -> dict[str, Any]:
    """Return the result in the form PaddleX's OCR pipeline documents, keys and their order alike.

    "dt_polys" are the lines' outlines, rounded to whole pixels; the other three lists run parallel.
    Raises `InputError` for a coordinate that is NaN or infinite.
    """
    lines = result.lines
    try:
        polygons = [[[round(x), round(y)] for x, y in line.outline_px] for line in lines]
    except (ValueError, OverflowError) as error:
        raise _not_finite(result.source) from error
    return {
        "input_path": result.source,
        "dt_polys": polygons,
        "dt_scores": [float(line.det_score) for line in lines],
        "rec_text": [line.text for line in lines],
        "rec_score": [float(line.rec_score) for line in lines],
    }


def to_json(data: Mapping[str, Any], *, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """Write a dict of this module as JSON that any UTF-8 file or stream can hold.

    A file name that is not valid Unicode reaches Python as lone surrogates, which UTF-8 can't
    encode; they are written as JSON escapes. Raises `InputError` for NaN and infinities, which JSON lacks.
    """
    try:
        text = json.dumps(data, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError as error:
        raise _not_finite(str(data.get("source", data.get("input_path", "result")))) from error
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _not_finite(source: str) -> InputError:
    problem = "the result holds a score or coordinate that is NaN or infinite, which JSON lacks"
    return InputError(source, problem, "read it again, with other models if it stays")


def to_jsonl(result: PageResult) -> str:
    """Write `to_dict` as JSON on one line, without the newline that ends it."""
    return to_json(to_dict(result))


def draw(result: PageResult, font: str | None = None) -> ImageBgr:
    """Draw the page with its boxes beside a white page with the text in their places.

    Returns (H, 2W, 3) uint8 BGR. `font` is the path of a TrueType or OpenType file to use instead
    of the bundled one. Raises `InputError` when the result keeps no image, `OptionError` for a
    font that can't be read.
    """
    if result.image is None:
        remedy = "draw before letting go of it, or put it back: dataclasses.replace(result, image=page.image)"
        raise InputError(result.source, "the result no longer holds its image", remedy)
    return drawing.draw(result.image, result.lines, font)


def to_jpeg(result: PageResult, font: str | None = None) -> bytes:
    """Encode what `draw` returns as JPEG, shrunk where a side is longer than JPEG can hold."""
    picture = draw(result, font)
    shrink = _MAX_SIDE_PX[".jpg"] / max(picture.shape[:2])
    if shrink < 1:
        height, width = (max(1, int(side * shrink)) for side in picture.shape[:2])
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return _encode(picture, ".jpg", result.source)


def output_path(result: PageResult, folder: str | Path, suffix: str, root: str | Path | None = None) -> Path:
    """Name the file that belongs to `result` under `folder`; a pure function of its arguments.

    The name is the input's whole file name, `_p0003` for the third page of a document, and
    `suffix`: `a.png.json`, `scan.pdf_p0003.json`. PaddleX keeps only the stem, so a.png and a.jpg
    overwrite each other there; keeping the whole name can't. Two more rules keep results apart:

    * With `root`, a source below it keeps its folders: `root/x/a.png` -> `folder/x/a.png.json`.
    * Otherwise, whatever the name leaves out (the source's folder, a URL's query, characters that
      file systems refuse) goes into it as a digest: `x/a.png` -> `folder/a.png-3f2a91bc04.json`. A source
      without a name ("<bytes>") is told apart by the digest of the result itself.
    """
    path = PurePath(result.source)
    if root is not None and path.is_relative_to(root) and ".." not in path.parts:
        return Path(folder, path.relative_to(root).parent, path.name + _page_mark(result) + suffix)
    name = _file_name(result.source)
    if result.source.startswith("<"):
        image = b"" if result.image is None else np.ascontiguousarray(result.image).tobytes()
        mark = _digest(to_jsonl(result).encode() + image)
    else:
        mark = "" if name == result.source else _digest(result.source.encode("utf-8", "surrogatepass"))
    return Path(folder, name + _page_mark(result) + mark + suffix)


def save_json(
    result: PageResult,
    path: str | Path,
    *,
    indent: int | None,
    ensure_ascii: bool,
    root: str | Path | None = None,
) -> Path:
    """Write `to_reference` to a file, or to `output_path` in a folder; return the file.

    Raises `OptionError` when the file can't be written or is the input itself.
    """
    target = _target(result, path, ".json", root)
    text = to_json(to_reference(result), indent=indent, ensure_ascii=ensure_ascii)
    write_atomic(target, text.encode("utf-8"))
    return target


def save_image(
    result: PageResult, path: str | Path, font: str | None = None, root: str | Path | None = None
) -> Path:
    """Write what `draw` returns to a file, or to `output_path` (PNG) in a folder; return the file.

    The file's ending picks the format: BMP, JPEG, PNG, TIFF or WebP. Raises `OptionError` for
    another ending, a picture too large for the format, or a file that can't be written.
    """
    target = _target(result, path, "_ocr.png", root)
    suffix = target.suffix.lower()
    if suffix not in _MAX_SIDE_PX:
        choices = ", ".join(sorted(_MAX_SIDE_PX))
        raise OptionError(str(path), "does not end like a picture", f"end it with one of {choices}")
    picture = draw(result, font)
    write_atomic(target, _encode(picture, suffix, str(target)))
    return target


def _encode(picture: ImageBgr, suffix: str, subject: str) -> bytes:
    height, width = picture.shape[:2]
    too_large = OptionError(
        subject, f"its format can't hold a picture of {width}x{height}", "end the name with .png or .tiff"
    )
    if max(height, width) > _MAX_SIDE_PX[suffix]:  # before OpenCV prints on stderr that it is
        raise too_large
    try:
        done, encoded = cv2.imencode(suffix, picture)
    except cv2.error as error:
        raise too_large from error
    if not done:
        raise too_large
    return encoded.tobytes()


def write_atomic(target: Path, content: bytes) -> None:
    """Write beside the target and move into place, so that nobody ever sees half a file.

    Makes the folders it needs. Raises `OptionError` when the file can't be written.
    """
    part = target.with_name(f".ocr-onnx-{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OptionError(
            str(target), f"can't be written ({reason})", "give a path you may write to"
        ) from error


def _target(result: PageResult, path: str | Path, suffix: str, root: str | Path | None) -> Path:
    """Take `path` for a folder if it is one, ends in a slash or has no suffix; for a file otherwise.

    Refuses the input's own path: a result must not destroy what it was read from.
    """
    target = Path(path)
    is_folder = (
        target.is_dir() or str(path).endswith(("/", os.sep)) or not (target.suffix or target.is_file())
    )
    if is_folder:
        target = output_path(result, target, suffix, root)
    if target.resolve() == Path(result.source).resolve():
        raise OptionError(str(path), "is the input itself and would be overwritten", "give another path")
    return target


def _file_name(source: str) -> str:
    """Return the last part of a path or URL, short and free of what some file system refuses."""
    path = source.partition("://")[2].partition("?")[0] if "://" in source else source
    name = _UNSAFE.sub("_", PurePath(path).name.strip("<>"))
    while len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name.rstrip(". ") or "page"


def _page_mark(result: PageResult) -> str:
    return "" if result.index is None else f"_p{result.index + 1:04d}"


def _digest(content: bytes) -> str:
    return "-" + blake2b(content, digest_size=5).hexdigest()


def _line_dict(line: TextLine) -> dict[str, Any]:
    return {
        "text": line.text,
        "rec_score": float(line.rec_score),
        "rec_min_score": float(line.rec_min_score),
        "det_score": float(line.det_score),
        "quad_px": [[float(x), float(y)] for x, y in line.quad_px],
        "outline_px": [[float(x), float(y)] for x, y in line.outline_px],
        "angle": int(line.angle),
    }


def _line(data: Mapping[str, Any]) -> TextLine:
    top_left, top_right, bottom_right, bottom_left = _points(data["quad_px"])
    if _integer(data["angle"]) not in (0, 180):
        raise ValueError(f"angle {data['angle']!r}")
    return TextLine(
        text=_string(data["text"]),
        rec_score=_number(data["rec_score"]),
        rec_min_score=_number(data["rec_min_score"]),
        det_score=_number(data["det_score"]),
        quad_px=(top_left, top_right, bottom_right, bottom_left),
        outline_px=_points(data["outline_px"]),
        angle=cast("Angle", data["angle"]),
    )


def _provenance_dict(provenance: Provenance) -> dict[str, Any]:
    return {
        "models": dict(provenance.models),
        "device": provenance.device,
        "provider": provenance.provider,
        "det_scale_xy": [float(scale) for scale in provenance.det_scale_xy],
        "version": provenance.version,
        "precision": provenance.precision,
        "fallback": provenance.fallback,
    }


def _provenance(data: Mapping[str, Any]) -> Provenance:
    scale_x, scale_y = data["det_scale_xy"]
    return Provenance(
        models=tuple((_string(stage), _string(model)) for stage, model in data["models"].items()),
        device=_string(data["device"]),
        provider=_string(data["provider"]),
        det_scale_xy=(_number(scale_x), _number(scale_y)),
        version=_string(data["version"]),
        precision=_string(data["precision"]),
        fallback=_string(data.get("fallback", "")),
    )


def _points(data: Any) -> tuple[Point, ...]:
    return tuple((_number(x), _number(y)) for x, y in _list(data))


# Nothing is converted but whole numbers to floats: "12", 1.9 and true in a number's place are mistakes.


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} instead of a number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} instead of a finite number")
    return float(value)


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} instead of a whole number")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} instead of a string")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} instead of a list")
    return value
