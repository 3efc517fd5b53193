"""The options, one frozen and validated type per stage. `dataclasses.replace` makes a changed copy."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ocr_onnx.errors import OptionError

LimitType: TypeAlias = Literal["max", "min"]
ScoreMode: TypeAlias = Literal["fast", "slow"]
BoxType: TypeAlias = Literal["quad", "polygon"]
Order: TypeAlias = Literal["reading", "reference"]
WidthRule: TypeAlias = Literal["tight", "reference"]


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not low <= value <= high:
        bounds = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise OptionError(name, f"{value!r} is out of range", f"give a number {bounds}")


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise OptionError(name, f"{value!r} is not a choice", f"give one of {', '.join(choices)}")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Bounds and choices for `inputs.pages`.

    `max_bytes` bounds a file, a body or a download before it is decoded; `max_pixels` a picture
    before its pixels are; `max_pages` the pages of one PDF or frames of one file. `pages` picks
    one-based pages, "1-3,7,10-". `dpi` is the resolution PDF pages are rendered at. `all_frames`
    reads every frame of an animated GIF or WebP (a TIFF is always read whole). `recursive`
    descends into folders. `timeout_s` bounds a download as a whole.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 178_956_970
    max_pages: int = 2_000
    pages: str = ""
    dpi: int = 200
    password: str = ""
    all_frames: bool = False
    recursive: bool = False
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        _check_range("input.max_bytes", self.max_bytes, 1, math.inf)
        _check_range("input.max_pixels", self.max_pixels, 1, math.inf)
        _check_range("input.max_pages", self.max_pages, 1, math.inf)
        _check_range("input.dpi", self.dpi, 18, 1200)
        _check_range("input.timeout_s", self.timeout_s, 0.001, math.inf)


@dataclass(frozen=True, slots=True)
class DetOptions:
    """Detection: the resize before the network and the DB post-processing after it.

    `limit_type` "max" shrinks the longer side to `limit_side_px`, "min" enlarges the shorter side
    to it; neither changes a page that already fits. `max_pixels` bounds the network's input
    whatever the rule says. `thresh` cuts the probability map, `box_thresh` drops regions whose
    mean probability is below it, `unclip_ratio` grows the shrunk regions back, `max_candidates`
    bounds the contours looked at. `score_mode` "fast" averages inside the region's rectangle,
    "slow" inside its contour. `dilate` closes one-pixel gaps in the cut map.

    Defaults are those of PaddleX's OCR pipeline for PP-OCRv4.
    """

    limit_type: LimitType = "max"
    limit_side_px: int = 960
    max_pixels: int = 4_000_000
    thresh: float = 0.3
    box_thresh: float = 0.6
    unclip_ratio: float = 1.5
    max_candidates: int = 1000
    score_mode: ScoreMode = "fast"
    box_type: BoxType = "quad"
    dilate: bool = False

    def __post_init__(self) -> None:
        _check_choice("det.limit_type", self.limit_type, ("max", "min"))
        _check_range("det.limit_side_px", self.limit_side_px, 32, 16_384)
        _check_range("det.max_pixels", self.max_pixels, 32 * 32, 256_000_000)
        _check_range("det.thresh", self.thresh, 0.0, 1.0)
        _check_range("det.box_thresh", self.box_thresh, 0.0, 1.0)
        _check_range("det.unclip_ratio", self.unclip_ratio, 0.0, 10.0)
        _check_range("det.max_candidates", self.max_candidates, 1, math.inf)
        _check_choice("det.score_mode", self.score_mode, ("fast", "slow"))
        _check_choice("det.box_type", self.box_type, ("quad", "polygon"))


@dataclass(frozen=True, slots=True)
class CropOptions:
    """From regions to line images.

    `order` "reading" follows columns and lines relative to the text's own height, "reference" is
    PaddleX's rule of 10 px. A crop at least `turn_ratio` times as high as wide is turned by 90
    degrees counter-clockwise.
    """

    order: Order = "reading"
    turn_ratio: float = 1.5

    def __post_init__(self) -> None:
        _check_choice("crop.order", self.order, ("reading", "reference"))
        _check_range("crop.turn_ratio", self.turn_ratio, 1.0, math.inf)


@dataclass(frozen=True, slots=True)
class ClsOptions:
    """The 0/180 text-line classifier. A line is turned when 180 wins with at least `thresh`."""

    enabled: bool = False
    thresh: float = 0.9
    batch_size: int = 6

    def __post_init__(self) -> None:
        _check_range("cls.thresh", self.thresh, 0.5, 1.0)
        _check_range("cls.batch_size", self.batch_size, 1, 1024)


@dataclass(frozen=True, slots=True)
class RecOptions:
    """Recognition.

    `width` "tight" gives a line the narrowest tensor that keeps accuracy, "reference" at least
    320 px as PaddleX does with batch 1. Either way the width follows from that line alone.
    At most `batch_size` lines of equal width share a run, fewer where they are wide. Lines wider
    than `max_width_px` at 48 px height are split with overlap and merged. Lines whose `rec_score`
    is below `drop_score` are left out of the result, which counts them.
    """

    width: WidthRule = "tight"
    batch_size: int = 6
    max_width_px: int = 3200
    drop_score: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("rec.width", self.width, ("tight", "reference"))
        _check_range("rec.batch_size", self.batch_size, 1, 1024)
        _check_range("rec.max_width_px", self.max_width_px, 320, 32_000)
        _check_range("rec.drop_score", self.drop_score, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and how the networks run.

    `device` is "cpu", "cuda[:i]", "cuda:0,1", "tensorrt[:i]", "openvino" or "auto"; PaddleX's
    "gpu:0" means "cuda:0". `threads` is the number of threads of one network run, 0 for all this
    process may use (affinity and cgroup quota).
    """

    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        _check_range("runtime.threads", self.threads, 0, 1024)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which models to use and where they may come from.

    `name` is a model set of the manifest. `det`, `rec` and `cls` are paths of own ONNX files that
    replace the set's, `dictionary` a text file with one character per line for an own `rec` whose
    metadata has none. `folder` is searched before the cache; `offline` forbids every download.
    """

    name: str = "mobile"
    det: str = ""
    rec: str = ""
    cls: str = ""
    dictionary: str = ""
    folder: str = ""
    offline: bool = False

    def __post_init__(self) -> None:
        if self.dictionary and not self.rec:
            raise OptionError(
                "models.dictionary", "was given without a rec model", "give models.rec as well, or neither"
            )


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from call to call: the options of every stage a page passes."""

    input: InputOptions = InputOptions()
    det: DetOptions = DetOptions()
    crop: CropOptions = CropOptions()
    cls: ClsOptions = ClsOptions()
    rec: RecOptions = RecOptions()
