"""A Paddle inference model's folder in, a checked ONNX model with its label out, by either route."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import onnx

from ocr_onnx.errors import ModelContractError
from ocr_onnx.manifest import Stage
from ocr_onnx_export import pdiparams, pir
from ocr_onnx_export.errors import ConversionError
from ocr_onnx_export.finish import OPSET, Label, finish, to_bytes
from ocr_onnx_export.paddle_route import PaddleTool
from ocr_onnx_export.sources import Source, check_dictionary
from ocr_onnx_export.translate import translate

Route: TypeAlias = Literal["light", "paddle2onnx"]
Rewrite: TypeAlias = Callable[[onnx.ModelProto, Stage], onnx.ModelProto]

LIGHT_CONVERTER = "ocr-onnx light route"
STAGE_OF_RANK: dict[int, Stage] = {4: "det", 3: "rec", 2: "cls"}


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """An ONNX file's bytes and what it says about itself. `classes` is None for det.

    `plain` are the bytes before rewriting, None where nothing was rewritten.
    """

    data: bytes
    label: Label
    classes: int | None
    opset: int = OPSET
    plain: bytes | None = None


def convert_source(
    source: Source, name: str, *, route: Route = "light", rewrite: Rewrite | None = None
) -> Converted:
    """Convert a Paddle model; `name` is what the result is called, `rewrite` is applied last.

    The light route needs Paddle for a legacy program only, to read it; the other always does.

    Raises
    ------
    SourceFormatError
        A file of the source is broken, or two do not belong together.
    UnsupportedOpError
        The light route does not know an operation, an attribute or the use made of it.
    ConversionError
        A route's result is not valid ONNX.
    ModelContractError
        The network belongs to no stage, or not to the one its settings say, or not to its dictionary.
    DependencyError
        Paddle is needed and missing.
    """
    model, converter = _by_paddle(source) if route == "paddle2onnx" else _by_light_route(source)
    stage, classes = _stage_and_classes(model, source)
    label = Label(name, stage, source.name, converter, source.dictionary if stage == "rec" else ())
    model = finish(model, label)
    plain = None if rewrite is None else to_bytes(model)
    if rewrite is not None:
        model = rewrite(model, stage)
    data = to_bytes(model)
    try:
        onnx.checker.check_model(data)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConversionError(
            str(source.program), f"converts to invalid ONNX ({reason})", "try the other --route"
        ) from error
    return Converted(data, label, classes, plain=plain)


def _by_paddle(source: Source) -> tuple[onnx.ModelProto, str]:
    tool = PaddleTool.find()
    versions = tool.versions()
    model = tool.convert(source.program, source.parameters)
    return model, ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _by_light_route(source: Source) -> tuple[onnx.ModelProto, str]:
    if source.layout == "pir":
        return _light(source.program, source.parameters), LIGHT_CONVERTER
    tool = PaddleTool.find()
    version = tool.versions()["paddlepaddle"]
    with tempfile.TemporaryDirectory() as folder:
        program, parameters = tool.upgrade(source.program, source.parameters, Path(folder))
        return _light(
            program, parameters
        ), f"{LIGHT_CONVERTER}, legacy program read by paddlepaddle {version}"


def _light(program_path: Path, parameters_path: Path) -> onnx.ModelProto:
    program = pir.read_program(program_path)
    return translate(program, pdiparams.read_parameters(parameters_path, program.parameters))


def _stage_and_classes(model: onnx.ModelProto, source: Source) -> tuple[Stage, int | None]:
    """Tell the stage by the output: det has maps, rec a table of steps and classes, cls a row of classes."""
    folder = str(source.program.parent)
    shape = model.graph.output[0].type.tensor_type.shape.dim
    stage = STAGE_OF_RANK.get(len(shape))
    if stage is None or len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise ModelContractError(
            folder,
            f"has {len(model.graph.input)} inputs and {len(model.graph.output)} outputs, the first with "
            f"{len(shape)} dimensions",
            "give a PP-OCR det, rec or cls model",
        )
    if source.stage not in (None, stage):
        raise ModelContractError(
            folder,
            f"calls itself a {source.stage} model, but its network is that of a {stage} model",
            "take all files from one model",
        )
    if stage == "det":
        return stage, None
    classes = int(shape[-1].dim_value)
    if stage == "rec":
        check_dictionary(source, classes)
    return stage, classes
