"""A program without weights in, weights out that keep its activations in range.

They serve tests of structure and speed; nothing about accuracy can be learnt from them. The same program
and seed give the same bytes.
"""

from math import prod, sqrt

import numpy as np

from ocr_onnx_export import pdiparams
from ocr_onnx_export.pdiparams import Array
from ocr_onnx_export.pir import Parameter, Program

# Found by trial: with larger gains SVTRv2 and the DB head amplify float32 rounding beyond 1e-4 (ONNX Runtime
# then differs from itself with its optimiser off), with smaller ones signals die out in the deep nets.
KERNEL_GAIN = 1.2
MATRIX_GAIN = 1.3
CLASSIFIER_GAIN = 5.0
CLASSIFIER_OUTPUTS = 1000  # a matrix with at least that many columns is the last one


def synthesise(program: Program, seed: int = 0) -> dict[str, Array]:
    """Return float32 values for every parameter, by name, drawn in the program's order."""
    generator = np.random.default_rng(seed)
    return {parameter.name: _values(parameter, generator) for parameter in program.parameters}


def synthesise_file(program: Program, seed: int = 0) -> bytes:
    """Return an `inference.pdiparams` for a program that has none, laid out as Paddle would."""
    return pdiparams.to_bytes(synthesise(program, seed))


def _values(parameter: Parameter, generator: np.random.Generator) -> Array:
    """Draw by the layer's kind, which Paddle's names tell: batch_norm2d_3.w_2 is a variance."""
    layer, _, kind = parameter.name.rpartition(".")
    shape = parameter.type.shape
    if layer.startswith("batch_norm") and kind == "w_2":
        drawn = generator.uniform(0.5, 1.5, shape)
    elif layer.startswith(("batch_norm", "layer_norm")) and kind == "w_0":
        drawn = generator.uniform(0.8, 1.2, shape)
    elif layer.startswith(("batch_norm", "layer_norm")):
        drawn = generator.normal(0.0, 0.1, shape)
    elif kind.startswith("b_") or len(shape) < 2:
        drawn = generator.normal(0.0, 0.05, shape)
    else:
        inputs = prod(shape[1:]) if len(shape) == 4 else shape[0]
        gain = _gain(shape)
        drawn = generator.normal(0.0, gain / sqrt(max(inputs, 1)), shape)
    return drawn.astype(np.float32)


def _gain(shape: tuple[int, ...]) -> float:
    if len(shape) == 4:
        return KERNEL_GAIN
    return CLASSIFIER_GAIN if shape[-1] >= CLASSIFIER_OUTPUTS else MATRIX_GAIN
