"""The same weights for every engine: stock ONNX files and Paddle folders, compared with our own files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ocr_onnx import detect, inputs, model_store
from ocr_onnx.data import ImageBgr
from ocr_onnx.engine import Engine
from ocr_onnx.errors import ModelError, OptionError
from ocr_onnx.files import file_sha256
from ocr_onnx.options import ModelOptions, Options

# The official weights, converted; RapidOCR 1.4.4 ships these files and 3.10.0 pins the same hashes.
STOCK_FILES = {
    "det": ("ch_PP-OCRv4_det_infer.onnx", "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"),
    "rec": ("ch_PP-OCRv4_rec_infer.onnx", "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"),
}
PADDLE_NAMES = {"det": "PP-OCRv4_mobile_det", "rec": "PP-OCRv4_mobile_rec"}
MAX_DIFFERENCE = 1e-3  # of a pixel's probability; rewriting the graph costs 1e-5, other weights 0.1 and more
MIN_EQUAL_LINES = 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """How our embedded files and the stock ones answer alike, both run by this project on the first page.

    `det_max_difference` is between the probabilities of one pixel, from 0 to 1.
    """

    page: str
    det_max_difference: float
    lines: int
    lines_equal: int


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the engines ran on, as (stage, SHA-256). That of Paddle folders is of `inference.pdiparams`.

    `paddle_pinned` tells whether these are the files that our models were converted from.
    """

    embedded: tuple[tuple[str, str], ...] = ()
    stock: tuple[tuple[str, str], ...] = ()
    agreement: Agreement | None = None
    paddle: tuple[tuple[str, str], ...] = ()
    paddle_pinned: bool = False


def embedded() -> tuple[tuple[str, str], ...]:
    """Return (stage, SHA-256) of the files that our own engine runs on."""
    found = model_store.resolve(ModelOptions(offline=True))
    return (("det", found.det.sha256), ("rec", found.rec.sha256))


def shipped_stock(python: Path) -> dict[str, Path]:
    """Return the stock files in the environment of `python`, which RapidOCR 1.4.4 was installed in.

    Raises ModelError where one is missing or is not the file that is pinned here.
    """
    found = {}
    for stage, (name, sha256) in STOCK_FILES.items():
        file = next(python.parents[1].glob(f"lib/*/site-packages/rapidocr_onnxruntime/models/{name}"), None)
        if file is None or file_sha256(file) != sha256:
            raise ModelError(
                name, "is not in RapidOCR's wheel as expected", "give --det-model and --rec-model"
            )
        found[stage] = file
    return found


def given_stock(det: Path | None, rec: Path | None) -> dict[str, Path] | None:
    """Return the stock files that the caller named, None for none. Raises OptionError for half a pair."""
    if det is None and rec is None:
        return None
    if det is None or rec is None:
        raise OptionError("--det-model", "comes together with --rec-model", "give both, or neither")
    for option, file in (("--det-model", det), ("--rec-model", rec)):
        if not file.is_file():
            raise OptionError(option, f"there is no file {file}", "give a stock ONNX file")
    return {"det": det.resolve(), "rec": rec.resolve()}


def check_agreement(stock: Mapping[str, Path], page: Path) -> Agreement:
    """Read `page` with our embedded files and with `stock`, the same way, and compare.

    Raises ModelError where they are not the same weights.
    """
    ours = Engine.load("mobile")
    theirs = Engine.load(ModelOptions(det=str(stock["det"]), rec=str(stock["rec"])))
    image = next(inputs.pages(page)).image
    texts = _texts(ours, image)
    found = Agreement(
        page=page.name,
        det_max_difference=_det_difference(ours, theirs, image),
        lines=len(texts),
        lines_equal=_equal(texts, _texts(theirs, image)),
    )
    if found.det_max_difference > MAX_DIFFERENCE or found.lines_equal < MIN_EQUAL_LINES * found.lines:
        raise ModelError(
            "stock models",
            f"are other weights than ours: on {found.page} probabilities differ by "
            f"{found.det_max_difference:.1e}, {found.lines_equal} of {found.lines} lines are equal",
            "give stock files of the PP-OCRv4 mobile models",
        )
    return found


def _det_difference(ours: Engine, theirs: Engine, image: ImageBgr) -> float:
    scaled = detect.preprocess(image, Options().det).image[None]
    return float(np.abs(ours.det(scaled) - theirs.det(scaled)).max())


def _texts(engine: Engine, image: ImageBgr) -> list[str]:
    return [line.text for line in engine.read(image).lines]


def _equal(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=False))


def paddle_folders(given: Path | None, scratch: Path) -> dict[str, Path]:
    """Return the folders of the Paddle models below `given`, ready for PaddleOCR; none for None.

    `given` holds PP-OCRv4_mobile_det and PP-OCRv4_mobile_rec, or a folder `paddle` with them. Old
    folders lack the `inference.yml` that PaddleOCR 3 asks for: it is then written beside links to
    their files, below `scratch`. Raises ModelError where a model is missing.
    """
    if given is None:
        return {}
    root = given / "paddle" if (given / "paddle").is_dir() else given
    return {stage: _with_yml(root / name, stage, scratch) for stage, name in PADDLE_NAMES.items()}


def _with_yml(folder: Path, stage: str, scratch: Path) -> Path:
    if not (folder / "inference.pdiparams").is_file():
        problem = "is not in the folder of Paddle models"
        raise ModelError(f"{folder.name}/inference.pdiparams", problem, "give a folder with both, or none")
    if (folder / "inference.yml").is_file():
        return folder.resolve()
    made = scratch / folder.name
    made.mkdir()
    for file in folder.iterdir():
        (made / file.name).symlink_to(file.resolve())
    # JSON is YAML as well
    (made / "inference.yml").write_text(json.dumps(_inference_yml(folder.name, stage)), encoding="utf-8")
    return made


def _inference_yml(name: str, stage: str) -> dict[str, object]:
    """Return what the official `inference.yml` of the PP-OCRv4 mobile models says."""
    if stage == "det":
        steps: list[dict[str, object]] = [
            {"DetResizeForTest": {"resize_long": 960}},
            {
                "NormalizeImage": {
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                    "scale": "1./255.",
                    "order": "hwc",
                }
            },
            {"ToCHWImage": None},
        ]
        post: dict[str, object] = {
            "name": "DBPostProcess",
            "thresh": 0.3,
            "box_thresh": 0.6,
            "max_candidates": 1000,
            "unclip_ratio": 1.5,
        }
    else:
        steps = [{"RecResizeImg": {"image_shape": [3, 48, 320]}}]
        # our models carry the dictionary; PaddleOCR puts blank and space around it by itself
        post = {"name": "CTCLabelDecode", "character_dict": list(Engine.load("mobile").charset[1:-1])}
    decode: dict[str, object] = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
    return {
        "Global": {"model_name": name},
        "PreProcess": {"transform_ops": [decode, *steps]},
        "PostProcess": post,
    }


def hashes(files: Mapping[str, Path]) -> tuple[tuple[str, str], ...]:
    """Return (stage, SHA-256) of each file."""
    return tuple((stage, file_sha256(file)) for stage, file in sorted(files.items()))


def are_pinned(paddle: Sequence[tuple[str, str]]) -> bool:
    """Tell whether all of these are Paddle files that the manifest's models are converted from."""
    pinned = {
        file.sha256
        for model in model_store.load_manifest().models
        for source in model.sources
        for file in source.files
    }
    return bool(paddle) and all(sha256 in pinned for _, sha256 in paddle)
