"""Synthesised weights: batch norms that take the common part away, maps that are neither full nor empty."""

from pathlib import Path

import numpy as np
import pytest

from ocr_onnx_export import parity
from ocr_onnx_export.finish import to_bytes
from ocr_onnx_export.pdiparams import Array
from ocr_onnx_export.pir import Program
from ocr_onnx_export.synthesise import measured, synthesise
from ocr_onnx_export.translate import translate
from tests.export.pir_programs import CONV, PirBuilder, tiny_det, tiny_rec

WIDTH = 16
CLASSES = 40
NORM = {
    "is_test": True,
    "momentum": 0.9,
    "epsilon": 1e-5,
    "data_format": "NCHW",
    "use_global_stats": False,
    "trainable_statistics": False,
}
STEPS = {
    "strides": [48, 8],
    "paddings": [0, 0],
    "ceil_mode": False,
    "exclusive": True,
    "data_format": "NCHW",
    "pooling_type": "avg",
    "global_pooling": False,
    "adaptive": False,
    "padding_algorithm": "EXPLICIT",
}


def normalising_rec() -> Program:
    """A convolution, the mean of every 8 columns, a batch norm, a classifier."""
    net = PirBuilder()
    kernel = net.parameter("conv2d_0.w_0", np.zeros((WIDTH, 3, 3, 3), np.float32))
    kinds = ("w_1", "w_2", "w_0", "b_0")  # mean, variance, scale, bias
    norm = [net.parameter(f"batch_norm2d_0.{kind}", np.zeros(WIDTH, np.float32)) for kind in kinds]
    classifier = net.parameter("linear_0.w_0", np.zeros((WIDTH, CLASSES), np.float32))
    x = net.feed([-1, 3, 48, -1])
    conv = net.op("1.conv2d", [x, kernel], [-1, WIDTH, 48, -1], CONV)
    pool = net.op("1.pool2d", [conv, net.integers(48, 8)], [-1, WIDTH, 1, -1], STEPS)
    rows = net.op("1.batch_norm_", [pool, *norm], [-1, WIDTH, 1, -1], NORM)
    row = net.op("1.squeeze", [rows, net.integers(2)], [-1, WIDTH, -1])
    steps = net.op("1.transpose", [row], [-1, -1, WIDTH], {"perm": [0, 2, 1]})
    product = {"transpose_x": False, "transpose_y": False}
    logits = net.op("1.matmul", [steps, classifier], [-1, -1, CLASSES], product)
    net.fetch(net.op("1.softmax", [logits], [-1, -1, CLASSES], {"axis": 2}), [-1, -1, CLASSES])
    return net.program()


def different_classes(program: Program, values: dict[str, Array], path: Path) -> int:
    path.write_bytes(to_bytes(translate(program, values)))
    text = parity.samples([(4, 48, 320)], seed=7)[1].images
    return len(np.unique(parity.onnx_runner(path, "rec")([text])[0].output.argmax(-1)))


def test_measured_statistics_make_the_answers_varied(tmp_path: Path) -> None:
    program = normalising_rec()
    drawn = synthesise(program)
    values = measured(program, drawn)
    before = different_classes(program, drawn, tmp_path / "drawn.onnx")
    assert different_classes(program, values, tmp_path / "measured.onnx") >= max(10, 3 * before)
    changed = {name for name in drawn if not np.array_equal(drawn[name], values[name])}
    assert changed == {"batch_norm2d_0.w_1", "batch_norm2d_0.w_2"}
    assert values["batch_norm2d_0.w_2"].min() > 0


def test_measured_statistics_are_those_of_the_norms_input() -> None:
    """With them, what was measured on comes out of the norm with mean 0 and variance 1."""
    program = normalising_rec()
    drawn = {**synthesise(program), "batch_norm2d_0.b_0": np.zeros(WIDTH, np.float32)}
    values = measured(program, {**drawn, "batch_norm2d_0.w_0": np.ones(WIDTH, np.float32)})
    assert measured(program, values).keys() == values.keys()
    for kind in ("w_1", "w_2"):  # measuring again finds the same, as they do not depend on themselves
        name = f"batch_norm2d_0.{kind}"
        np.testing.assert_array_equal(measured(program, values)[name], values[name])
    images = parity.normalise("rec", parity.samples([(8, 48, 320)])[1].images)
    kernel = values["conv2d_0.w_0"].reshape(WIDTH, -1)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3)).mean(axis=2)  # over the height
    columns = windows.transpose(0, 2, 1, 3, 4).reshape(8, 320, -1) @ kernel.T
    steps = columns.reshape(-1, 8, WIDTH).mean(axis=1)
    np.testing.assert_allclose(values["batch_norm2d_0.w_1"], steps.mean(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(values["batch_norm2d_0.w_2"], steps.var(axis=0), rtol=1e-2, atol=1e-6)


def test_programs_without_batch_norm_keep_what_was_drawn() -> None:
    program = tiny_rec().program()
    drawn = synthesise(program)
    assert measured(program, drawn).keys() == drawn.keys()
    assert all(measured(program, drawn)[name] is drawn[name] for name in drawn)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kernel_of_a_map_sums_to_zero(seed: int) -> None:
    values = synthesise(tiny_det().program(), seed)
    np.testing.assert_allclose(values["conv2d_0.w_0"].sum(axis=1), 0, atol=1e-5)
    assert values["conv2d_0.b_0"] < 0
