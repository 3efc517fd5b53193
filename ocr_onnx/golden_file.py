"""The file of golden tensors beside a model: its bytes in, a validated `Golden` out, and back.

`NAME.golden.npz` lies beside `NAME.onnx`. It is a plain compressed .npz of numbers and texts, which
numpy opens too. The reader believes nothing: sizes are bounded before anything is unpacked, and
nothing in it is ever executed.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ocr_onnx.data import F32Array, ImageBgr
from ocr_onnx.errors import ModelError
from ocr_onnx.manifest import STAGES, Stage

SUFFIX: Final = ".golden.npz"
FORMAT: Final = "ocr-onnx golden tensors 1"
MAX_FILE_BYTES: Final = 1024 * 1024  # the embedded ones have less than 60 kB
MAX_ARRAY_BYTES: Final = 8 * 1024 * 1024
MAX_TOLERANCE: Final = 0.1
REMEDY: Final = "fetch or export the model again, or delete this file"

# What zipfile and numpy's header parser raise on broken data, each in its own way.
_BROKEN = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

_Array: TypeAlias = NDArray[Any]


class Answer(NamedTuple):
    """What a network says of one picture.

    `probs` float32: det (h, w), rec (T,) of the best class of each step, cls (2,). `labels` int64:
    rec (T,) best classes, else (0,).
    """

    probs: F32Array
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """A picture and what every step of a stage makes of it.

    `picture` (H, W, 3) is the page or line, `image` (h, w, 3) that picture as the network gets it,
    with content in its first `content_px` columns, and `tensor` (3, h, w) float32 the normalised
    values. `answer` is the network's by `truth`: the program that ran it, with its version. An
    answer within `tolerance` of it counts as equal. `quads_px` (K, 4, 2) are det's boxes, `text` is
    rec's text or cls's angle.
    """

    stage: Stage
    truth: str
    tolerance: float
    picture: ImageBgr
    image: NDArray[np.uint8]
    content_px: int
    tensor: F32Array
    answer: Answer
    quads_px: F32Array
    text: str


def path_beside(model: Path) -> Path:
    """Return where the golden tensors of a model's file lie."""
    return model.with_name(model.stem + SUFFIX)


def to_bytes(golden: Golden) -> bytes:
    """Write golden tensors as .npz; the same tensors always give the same bytes (numpy's dates are fixed)."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        allow_pickle=False,
        format=np.array(FORMAT),
        stage=np.array(golden.stage),
        truth=np.array(golden.truth),
        tolerance=np.array(golden.tolerance, np.float64),
        picture=golden.picture,
        image=golden.image,
        content_px=np.array(golden.content_px, np.int64),
        tensor=golden.tensor,
        probs=golden.answer.probs,
        labels=golden.answer.labels,
        quads_px=golden.quads_px,
        text=np.array(golden.text),
    )
    return stream.getvalue()


def read(path: Path) -> Golden:
    """Read a file of golden tensors.

    Raises
    ------
    ModelError
        It can't be read, is no such file, is damaged or too large, or its tensors do not fit together.
    """
    try:
        return _golden(_arrays(path))
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(str(path), f"is no intact file of golden tensors ({reason})", REMEDY) from error


def _arrays(path: Path) -> dict[str, _Array]:
    """Unpack a .npz whose every member is small and is exactly as long as its header says."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                content = stream.read(MAX_ARRAY_BYTES + 1)
            arrays[member.filename.removesuffix(".npy")] = _array(content)
    return arrays


def _array(content: bytes) -> _Array:
    """Decode a .npy without numpy's own loader, which allocates whatever a header asks for."""
    if len(content) > MAX_ARRAY_BYTES:
        raise ValueError(f"an array of more than {MAX_ARRAY_BYTES} bytes")
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another .npy version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    payload = content[stream.tell() :]
    if by_columns or dtype.hasobject or len(payload) != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array that its header does not describe")
    return np.frombuffer(payload, dtype).reshape(shape) if payload else np.empty(shape, dtype)


def _golden(arrays: Mapping[str, _Array]) -> Golden:
    if _text(arrays, "format") != FORMAT:
        raise ValueError(f"not of the format {FORMAT!r}")
    stage = _text(arrays, "stage")
    if stage not in STAGES:
        raise ValueError(f"for a stage {stage!r}")
    golden = Golden(
        stage=stage,
        truth=_text(arrays, "truth"),
        tolerance=float(_tensor(arrays, "tolerance", np.float64, 0)),
        picture=_tensor(arrays, "picture", np.uint8, 3),
        image=_tensor(arrays, "image", np.uint8, 3),
        content_px=int(_tensor(arrays, "content_px", np.int64, 0)),
        tensor=_tensor(arrays, "tensor", np.float32, 3),
        answer=Answer(
            _tensor(arrays, "probs", np.float32, 2 if stage == "det" else 1),
            _tensor(arrays, "labels", np.int64, 1),
        ),
        quads_px=_tensor(arrays, "quads_px", np.float32, 3),
        text=_text(arrays, "text"),
    )
    _check(golden)
    return golden


def _check(golden: Golden) -> None:
    """Refuse tensors that do not fit together: what follows relies on their shapes and ranges."""
    height, width, channels = golden.image.shape
    probs, labels = golden.answer
    answers = {"det": (height, width), "rec": labels.shape, "cls": (2,)}
    fits = (
        golden.picture.shape[2] == channels == 3
        and golden.picture.size > 0
        and golden.tensor.shape == (3, height, width)
        and 0 < golden.content_px <= width
        and probs.shape == answers[golden.stage]
        and probs.size > 0
        and golden.quads_px.shape[1:] == (4, 2)
        and 0.0 < golden.tolerance <= MAX_TOLERANCE
        and golden.truth.isprintable()  # it is written to terminals
    )
    numbers = (golden.tensor, probs, golden.quads_px)
    if not fits or not all(np.isfinite(array).all() for array in numbers) or (labels < 0).any():
        raise ValueError("tensors that do not fit together")


def _tensor(arrays: Mapping[str, _Array], name: str, dtype: type[np.generic], dimensions: int) -> _Array:
    array = arrays[name]
    if array.dtype != dtype or array.ndim != dimensions:
        raise ValueError(f"{name} is {array.dtype} with {array.ndim} dimensions")
    return array


def _text(arrays: Mapping[str, _Array], name: str) -> str:
    array = arrays[name]
    if not array.dtype.str.startswith("<U") or array.ndim != 0:
        raise ValueError(f"{name} is no text")
    # not item(), which breaks on code points that do not exist
    return array.tobytes().decode("utf-32-le").rstrip("\0")
