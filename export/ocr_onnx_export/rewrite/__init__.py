"""PP-OCR ONNX files in, files out that compute the same and run faster."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from onnx import ModelProto

from ocr_onnx.manifest import Stage
from ocr_onnx_export.rewrite.affine_to_batch_norm import affine_to_batch_norm
from ocr_onnx_export.rewrite.align_channels import align_channels
from ocr_onnx_export.rewrite.argmax_in_blocks import argmax_in_blocks
from ocr_onnx_export.rewrite.ctc_output import ctc_output
from ocr_onnx_export.rewrite.fold_affine_after import fold_affine_after
from ocr_onnx_export.rewrite.fold_affine_before import fold_affine_before
from ocr_onnx_export.rewrite.fold_constants import fold_constants
from ocr_onnx_export.rewrite.fuse_gate import fuse_gate
from ocr_onnx_export.rewrite.fuse_hard_swish import fuse_hard_swish
from ocr_onnx_export.rewrite.graph import Graph, Pass
from ocr_onnx_export.rewrite.image_input import DET, LINE, image_input
from ocr_onnx_export.rewrite.merge_pointwise import merge_pointwise
from ocr_onnx_export.rewrite.name_nodes import name_nodes
from ocr_onnx_export.rewrite.remove_dead import remove_dead, remove_identities, remove_round_trips
from ocr_onnx_export.rewrite.upgrade_opset import upgrade_opset
from ocr_onnx_export.rewrite.upsample_last import upsample_last

Target: TypeAlias = Literal["cpu", "gpu", "openvino"]

FOLDING: tuple[Pass, ...] = (
    remove_identities,
    fold_constants,
    remove_round_trips,
    fuse_hard_swish,
    fold_affine_after,
    fold_affine_before,
    remove_dead,
    fuse_gate,
    merge_pointwise,
)
"""Fewer operations, whatever runs them. Half precision needs it: it hides huge variances."""

FOR_TARGET: Mapping[Target, tuple[Pass, ...]] = {
    "cpu": (*FOLDING, upsample_last, affine_to_batch_norm, align_channels),
    "gpu": FOLDING,
    # OpenVINO fuses the stock pattern itself: with folded affines the mobile models took 0.88 to 0.99 of
    # the time on AVX2 (AMD Zen 3) and 1.1 to 1.2 on AVX-512 (Zen 5). So it runs files for "cpu" as well.
    "openvino": (),
}

FOR_STAGE: Mapping[Stage, tuple[Pass, ...]] = {
    "det": (image_input(DET, padded=False),),
    "rec": (image_input(LINE, padded=True), ctc_output),
    "cls": (image_input(LINE, padded=True),),
}
"""The input and output contract; the same on every target."""

AFTER_STAGE: Mapping[Target, tuple[Pass, ...]] = {
    "cpu": (argmax_in_blocks,),
    "gpu": (),
    "openvino": (argmax_in_blocks,),
}
"""What shortens the contract's own operations. ArgMax is slow on a processor, OpenVINO's as well."""

TIDY: tuple[Pass, ...] = (remove_dead, name_nodes)


def passes_for(target: Target, stage: Stage) -> tuple[Pass, ...]:
    """Return everything a model of `stage` goes through for `target`, the contract included."""
    return (*FOR_TARGET[target], *FOR_STAGE[stage], *AFTER_STAGE[target])


def rewrite(model: ModelProto, passes: Sequence[Pass] = FOR_TARGET["cpu"]) -> ModelProto:
    """Return a model that computes the same in fewer steps; `model` is not changed.

    Any ONNX file goes through: a pass acts where its whole pattern is there and leaves the rest.
    Files older than opset 14 are brought to 17 first. Metadata survives. Equal input gives equal
    bytes (`finish.to_bytes`). Results differ from the original by float32 rounding only.

    Time of the whole CPU list against the stock file, with the engine's calls around both (AMD Zen 3,
    `benchmarks/results/rewrites-mobile-cpu.json`): mobile det 0.64 to 0.70, mobile rec 0.70 to 0.73,
    line classifier 0.97 to 1.0; server det, server rec and SVTRv2 0.98 to 1.01 (little to fold).

    For the input and output contract too, pass `passes_for(target, stage)`.
    """
    graph = Graph.from_model(upgrade_opset(model))
    for apply in (*passes, *TIDY):
        graph = apply(graph)
    return graph.to_model()
