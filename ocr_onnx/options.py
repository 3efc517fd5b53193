"""The options, one frozen and validated type per stage. `dataclasses.replace` makes a changed copy.

Every value is checked when it is given: a wrong type, a number out of range or an unknown choice
raises `OptionError` about the key ("det.thresh").
"""

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeAlias

from ocr_onnx.errors import OptionError
from ocr_onnx.validation import Range, check_fields

LimitType: TypeAlias = Literal["auto", "max", "min"]
ScoreMode: TypeAlias = Literal["fast", "slow"]
BoxType: TypeAlias = Literal["quad", "polygon"]
Order: TypeAlias = Literal["reading", "reference"]
WidthRule: TypeAlias = Literal["tight", "reference"]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]


LIMIT_SIDES_PX: Final = Range(32, 16_384)
"""What `det.limit_side_px` may be."""


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Bounds and choices for everything that is read.

    Attributes
    ----------
    max_bytes
        Bound on a file, a body or a download, in bytes, checked before anything is decoded.
    max_pixels
        Bound on width times height of a picture or a rendered page, checked before its pixels exist.
    max_pages
        Bound on the number of pages of one PDF, or frames of one picture file, that are read.
    max_pdf_objects
        Bound on the objects (pieces of text, paths, pictures) of one PDF page, checked before it is drawn.
    pages
        Which of them to read, counted from one: "1-3,7,10-". Empty for all.
    dpi
        Resolution PDF pages are rendered at, in pixels per inch.
    password
        Opens encrypted PDFs. Left out of `repr` and of messages.
    all_frames
        Read every frame of an animated GIF, PNG or WebP; else the first. A TIFF is always read whole.
    recursive
        Descend into the folders of a folder.
    timeout_s
        Bound on one download from the first connection to the last byte, in seconds.
    """

    max_bytes: Annotated[int, Range(1)] = 256 * 1024 * 1024
    max_pixels: Annotated[int, Range(1)] = 178_956_970
    max_pages: Annotated[int, Range(1)] = 2_000
    max_pdf_objects: Annotated[int, Range(1)] = 10_000_000
    pages: str = ""
    dpi: Annotated[int, Range(18, 1200)] = 200
    password: str = field(default="", repr=False)
    all_frames: bool = False
    recursive: bool = False
    timeout_s: Annotated[float, Range(0.001)] = 60.0

    def __post_init__(self) -> None:
        check_fields(self, "input")
        try:
            self.password.encode()
        except UnicodeEncodeError:  # not as the cause: it holds the password
            raise OptionError("input.password", "is no valid Unicode", "give the text as it is") from None


@dataclass(frozen=True, slots=True)
class DetOptions:
    """Detection: the resize before the network and the DB post-processing after it.

    Defaults are those of PaddleX's OCR pipeline for PP-OCRv4, but for the size at which a page is
    searched: there it is "max" and 960.

    Attributes
    ----------
    limit_type
        "auto" shrinks a page whose longer side is above `limit_side_px` to it (strips count as
        screens of 16:9), and searches once more, finer, where the text turns out to be small.
        "max" only shrinks, "min" only enlarges a page whose shorter side is below the limit. None
        changes a page that already fits.
    limit_side_px
        The limit, in pixels of the network's input.
    max_pixels
        Bound on width times height at which a page is searched, whatever the limit says.
    tile_pixels
        Larger pages go through the network in tiles of at most so many pixels, which overlap and
        are joined before regions are looked for.
    thresh
        Pixels with a text probability (0 to 1) above this belong to a region.
    box_thresh
        Regions with a mean probability (0 to 1) below this are dropped.
    unclip_ratio
        How far the regions, which the network learned to shrink, grow back: by this times area /
        perimeter, on every side. 0 leaves them as they are.
    max_candidates
        Bound on the number of contours of one page that are looked at.
    score_mode
        Takes the mean inside the region's rectangle ("fast") or inside its contour ("slow").
    box_type
        Rectangles of any angle ("quad"), or outlines that follow the text ("polygon").
    dilate
        Close gaps of one pixel between the pixels above `thresh`.
    """

    limit_type: LimitType = "auto"
    limit_side_px: Annotated[int, LIMIT_SIDES_PX] = 1600
    max_pixels: Annotated[int, Range(32 * 32, 256_000_000)] = 16_000_000
    tile_pixels: Annotated[int, Range(256 * 256, 256_000_000)] = 1_000_000
    thresh: Annotated[float, Range(0, 1)] = 0.3
    box_thresh: Annotated[float, Range(0, 1)] = 0.6
    unclip_ratio: Annotated[float, Range(0, 10)] = 1.5
    max_candidates: Annotated[int, Range(1)] = 1000
    score_mode: ScoreMode = "fast"
    box_type: BoxType = "quad"
    dilate: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "det")


@dataclass(frozen=True, slots=True)
class CropOptions:
    """From regions to line images.

    Attributes
    ----------
    order
        "reading" follows columns and lines relative to the text's own height, "reference" is
        PaddleX's rule: rows of 10 px, from left to right.
    turn_ratio
        A crop at least this many times as high as wide is turned by 90 degrees counter-clockwise.
    """

    order: Order = "reading"
    turn_ratio: Annotated[float, Range(1)] = 1.5

    def __post_init__(self) -> None:
        check_fields(self, "crop")


@dataclass(frozen=True, slots=True)
class ClsOptions:
    """The text-line classifier, which finds lines that stand on their head.

    Attributes
    ----------
    enabled
        Load the classifier and run it on every line.
    thresh
        A line is turned by 180 degrees when the probability that it must be (0.5 to 1) is at least this.
    batch_size
        Number of lines that share a run of the network. On a GPU, runs that wait for it at the same
        time are joined to larger ones.
    """

    enabled: bool = False
    thresh: Annotated[float, Range(0.5, 1)] = 0.9
    batch_size: Annotated[int, Range(1, 1024)] = 6

    def __post_init__(self) -> None:
        check_fields(self, "cls")


@dataclass(frozen=True, slots=True)
class RecOptions:
    """Recognition.

    Attributes
    ----------
    width
        "tight" gives a line the narrowest tensor that keeps accuracy, "reference" at least 320 px, as
        PaddleX does with batch 1. Either way the width follows from that line alone.
    batch_size
        Most lines of equal width that share a run of the network; fewer do where they are wide. On a
        GPU, runs that wait for it at the same time are joined to larger ones.
    max_width_px
        Lines wider than this, in pixels at 48 px height, are split with overlap and merged.
    drop_score
        Lines whose `rec_score` (0 to 1) is below this are left out of the result, which counts them.
    """

    width: WidthRule = "tight"
    batch_size: Annotated[int, Range(1, 1024)] = 6
    max_width_px: Annotated[int, Range(320, 32_000)] = 3200
    drop_score: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "rec")


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and how the networks run.

    Attributes
    ----------
    device
        "cpu", "cuda[:i]", "tensorrt[:i]" with the zero-based number of the GPU, "openvino", or "auto"
        for the fastest that can be used. "cuda:0,1" opens the networks on both GPUs and shares the
        work among them. PaddleX's "gpu:0" means "cuda:0".
    threads
        Number of threads of one network run; 0 for all this process may use (affinity, cgroup quota).
    precision
        What the networks compute in: "fp32", also on processors that would rather take less, or "bf16"
        on device "openvino" with a processor that has instructions for it. "fp16" is for GPUs and FP16
        files, which must agree with FP32 on the GPU before they are used.
    allow_fallback
        Go on with a slower device where the one asked for can't be used: "cuda" instead of "tensorrt",
        "cpu" instead of either or of "openvino". Results say so. A precision is never given up.
    gpu_memory_mib
        Bound on the memory that each network may take of a GPU, in MiB; 0 for none. It holds for the
        arena of one session (weights, activations, workspace), and an engine has one for each of its
        two or three networks; the CUDA context and its libraries come on top, some 500 MiB. On
        "tensorrt" it bounds an engine's scratch memory, and the arena of the session for what has none.
    tf32
        Let a GPU multiply in TF32, with 10 bits of mantissa, where it can; false for full FP32.
    """

    device: str = "cpu"
    threads: Annotated[int, Range(0, 1024)] = 0
    precision: Precision = "fp32"
    allow_fallback: bool = False
    gpu_memory_mib: Annotated[int, Range(0, 16 * 1024 * 1024)] = 0
    tf32: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "runtime")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which models to use and where they may come from.

    Attributes
    ----------
    name
        A model set of the manifest.
    det, rec, cls
        Paths of own ONNX files for that stage; empty for the set's.
    dictionary
        Path of a text file with one character per line, for an own `rec` whose metadata has none.
    folder
        Path of a folder that is searched for models before the cache. Empty for none, or the one
        that OCR_ONNX_MODEL_DIR names.
    offline
        Never download anything.
    """

    name: str = "mobile"
    det: str = ""
    rec: str = ""
    cls: str = ""
    dictionary: str = ""
    folder: str = ""
    offline: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "models")
        if self.dictionary and not self.rec:
            raise OptionError(
                "models.dictionary", "was given without a rec model", "give models.rec as well, or neither"
            )


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from call to call: the options of every stage a page passes.

    Attributes
    ----------
    input, det, crop, cls, rec
        Those of reading, detection, cropping, the text-line classifier and recognition.
    """

    input: InputOptions = InputOptions()
    det: DetOptions = DetOptions()
    crop: CropOptions = CropOptions()
    cls: ClsOptions = ClsOptions()
    rec: RecOptions = RecOptions()

    def __post_init__(self) -> None:
        check_fields(self, "options")
