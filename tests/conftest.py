"""What the tests share: tiny ONNX models without weights, and the command line as a call."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import hypothesis
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ocr_onnx import cli
from ocr_onnx.runtime import Device, opening, probe
from ocr_onnx.runtime import session as session_module
from ocr_onnx.runtime.binding import BoundSession
from ocr_onnx.runtime.providers import GpuOptions

# The same examples on every run and every machine: a failure is one for everybody.
# No deadline: how long one takes is up to whatever else the machine does.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")

CHARACTERS = "ab"  # of the tiny rec model: blank, a, b, space


class Outcome(NamedTuple):
    """What one call of the command line did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line as `ocr-onnx ARGUMENTS` would."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def pretended_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take the processor for any number of GPUs, buffers and all; return the numbers of those used."""
    used: list[int] = []
    open_session = opening.open_session

    def on_processor(subject: str, model: str, *_: object, gpu: GpuOptions) -> object:
        del gpu
        return open_session(subject, model, Device("cpu"), 1)

    def with_buffers(session: object, memory: str, index: int) -> BoundSession:
        assert memory == "cuda"
        used.append(index)
        return BoundSession(session, "cpu", 0)

    monkeypatch.setattr(probe, "why_unusable", lambda _: None)
    monkeypatch.setattr(opening, "open_session", on_processor)
    monkeypatch.setattr(session_module, "BoundSession", with_buffers)
    return used


def _save(path: Path, graph: onnx.GraphProto, metadata: dict[str, str]) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def tiny_det(tmp_path: Path) -> Path:
    """A det model that calls dark pixels text: sigmoid(-20 * mean channel)."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], "mean", axes=[1], keepdims=1),
            helper.make_node("Mul", ["mean", "gain"], ["logit"], "gain"),
            helper.make_node("Sigmoid", ["logit"], ["map"], "map"),
        ],
        "tiny-det",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [numpy_helper.from_array(np.array(-20.0, np.float32), "gain")],
    )
    return _save(tmp_path / "tiny-det.onnx", graph, {"stage": "det"})


@pytest.fixture
def tiny_rec(tmp_path: Path) -> Path:
    """A rec model with one step per 8 px: "a" where the strip is dark, blank where it is light."""
    weight = np.zeros((4, 3), np.float32)
    weight[0], weight[1] = 5.0, -5.0
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["x"], ["pool"], "pool", kernel_shape=[48, 8], strides=[48, 8]),
            helper.make_node("Squeeze", ["pool", "axis"], ["rows"], "squeeze"),
            helper.make_node("Transpose", ["rows"], ["steps"], "transpose", perm=[0, 2, 1]),
            helper.make_node("MatMul", ["steps", "weight"], ["logits"], "classify"),
            helper.make_node("Softmax", ["logits"], ["probs"], "softmax", axis=2),
        ],
        "tiny-rec",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 48, "W"])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["N", "T", 4])],
        [
            numpy_helper.from_array(np.array([2], np.int64), "axis"),
            numpy_helper.from_array(np.ascontiguousarray(weight.T), "weight"),
        ],
    )
    return _save(tmp_path / "tiny-rec.onnx", graph, {"stage": "rec", "character": "\n".join(CHARACTERS)})


@pytest.fixture
def tiny_cls(tmp_path: Path) -> Path:
    """A cls model that calls a line turned when its left half is darker than its right."""
    weight = np.array([[0.0, 0.0], [-20.0, 20.0]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["columns"], "columns", axes=[1, 2], keepdims=0),
            helper.make_node("Split", ["columns", "halves"], ["left", "right"], "split", axis=1),
            helper.make_node("ReduceMean", ["left"], ["l"], "left", axes=[1], keepdims=1),
            helper.make_node("ReduceMean", ["right"], ["r"], "right", axes=[1], keepdims=1),
            helper.make_node("Concat", ["l", "r"], ["pair"], "pair", axis=1),
            helper.make_node("MatMul", ["pair", "weight"], ["logits"], "classify"),
            helper.make_node("Softmax", ["logits"], ["probs"], "softmax", axis=1),
        ],
        "tiny-cls",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 48, 192])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["N", 2])],
        [
            numpy_helper.from_array(np.array([96, 96], np.int64), "halves"),
            numpy_helper.from_array(np.ascontiguousarray(weight.T), "weight"),
        ],
    )
    return _save(tmp_path / "tiny-cls.onnx", graph, {"stage": "cls"})
