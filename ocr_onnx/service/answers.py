"""The forms of the answers, for `/openapi.json`. `contract`, `v1` and `render` write them."""

from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import UUID

from ocr_onnx.data import Quad

PixelPoint: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class OcrText:
    """A line of text: its outline in whole pixels of the page; the score is from 0 to 1."""

    poly: list[PixelPoint]
    text: str
    score: float


@dataclass(frozen=True)
class OcrPage:
    """The lines of a page, and the annotated page as JPEG in base64."""

    texts: list[OcrText]
    image: str


@dataclass(frozen=True)
class PageSize:
    """The size of a page, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class ImageInfo:
    """The size of a picture, in pixels."""

    width: int
    height: int
    type: Literal["image"]


@dataclass(frozen=True)
class PdfInfo:
    """How many pages a PDF has in all, and the sizes of those that were read."""

    numPages: int
    pages: list[PageSize]
    type: Literal["pdf"]


@dataclass(frozen=True)
class OcrResult:
    """What was read; of a PDF the first ten pages."""

    ocrResults: list[OcrPage]
    dataInfo: ImageInfo | PdfInfo


@dataclass(frozen=True)
class OcrAnswer:
    """A request of PaddleX's contract that was served."""

    logId: UUID
    errorCode: Literal[0]
    errorMsg: Literal["Success"]
    result: OcrResult


@dataclass(frozen=True)
class OcrFailure:
    """A request of PaddleX's contract that was not; the code is that of HTTP."""

    logId: UUID
    errorCode: int
    errorMsg: str


@dataclass(frozen=True)
class Line:
    """A line of text; points are in pixels of the page, scores from 0 to 1, `angle` was turned back."""

    text: str
    rec_score: float
    rec_min_score: float
    det_score: float
    quad_px: Quad
    outline_px: list[tuple[float, float]]
    angle: Literal[0, 180]


@dataclass(frozen=True)
class Origin:
    """How a page's result came about; `models` has "name@sha256" for each stage."""

    models: dict[str, str]
    device: str
    provider: str
    det_scale_xy: tuple[float, float]
    version: str
    precision: str
    fallback: str


@dataclass(frozen=True)
class ReadPage:
    """A page's result; `index` is zero-based, and null where the file is one picture.

    `picture`, the annotated page as JPEG in base64, is there if it was asked for.
    """

    schema: Literal[1]
    source: str
    index: int | None
    width_px: int
    height_px: int
    lines: list[Line]
    filtered: int
    warnings: list[str]
    provenance: Origin | None
    picture: str = ""


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do about it."""

    kind: str
    subject: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class FailedPage:
    """A file or page that could not be read."""

    source: str
    index: int | None
    error: Problem


@dataclass(frozen=True)
class ReadAnswer:
    """Every page that was read, and what could not be."""

    pages: list[ReadPage]
    failed: list[FailedPage]


@dataclass(frozen=True)
class RequestProblem:
    """What is wrong with a request as a whole; the log knows it by its id."""

    kind: str
    subject: str
    problem: str
    remedy: str
    requestId: UUID


@dataclass(frozen=True)
class Failure:
    """A request that was not served."""

    error: RequestProblem


@dataclass(frozen=True)
class ModelUsed:
    """A model and what it is for."""

    stage: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Models:
    """What the server reads with."""

    name: str
    models: list[ModelUsed]
    device: str = ""
    provider: str = ""
    precision: str = ""
    version: str = ""


@dataclass(frozen=True)
class Alive:
    """The process answers."""

    status: Literal["alive"]


@dataclass(frozen=True)
class Ready:
    """Requests are taken."""

    status: Literal["ready"]


@dataclass(frozen=True)
class NotReady:
    """Requests are not taken."""

    status: Literal["loading", "stopping"]
