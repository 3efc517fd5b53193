"""Device openvino itself; runs where onnxruntime-openvino is installed.

uv run --no-group cpu --extra openvino pytest tests/test_openvino.py
"""

import os
from pathlib import Path

import numpy as np
import pytest

from ocr_onnx import Engine, doctor, model_store, runtime
from ocr_onnx.errors import DeviceError
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Array, Device, Session

pytestmark = pytest.mark.skipif(
    "onnxruntime-openvino" not in runtime.installed_wheels(), reason="onnxruntime-openvino is not installed"
)
STATM = Path("/proc/self/statm")
PAGE = Path(__file__).parent / "data" / "boarding-pass.png"
ROUNDING = 1e-4  # of float32, over a network's depth


def _session(name: str, device: str) -> Session:
    return Session(model_store.embedded_dir() / f"{name}.onnx", RuntimeOptions(device, 2))


def test_det_computes_what_the_cpu_does_at_every_size() -> None:
    cpu, openvino = (_session("ppocrv4-mobile-det", device) for device in ("cpu", "openvino"))
    rng = np.random.default_rng(5)
    for height, width in ((64, 64), (320, 96), (64, 64), (160, 256)):
        feeds = {"image": rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)}
        np.testing.assert_allclose(openvino(feeds)[0], cpu(feeds)[0], atol=ROUNDING)


def test_rec_computes_what_the_cpu_does_at_every_size() -> None:
    cpu, openvino = (_session("ppocrv4-mobile-rec", device) for device in ("cpu", "openvino"))
    rng = np.random.default_rng(6)
    for lines, width in ((1, 160), (3, 320), (1, 160), (2, 640)):
        feeds: dict[str, Array] = {
            "image": rng.integers(0, 256, (lines, 48, width, 3), dtype=np.uint8),
            "valid_w": np.full(lines, width - 9, np.int32),
        }
        for ours, theirs in zip(openvino(feeds), cpu(feeds), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=ROUNDING)


@pytest.mark.skipif(not STATM.is_file(), reason="only Linux tells a process's memory by a file")
def test_memory_does_not_grow_with_the_shapes_seen() -> None:
    det = _session("ppocrv4-mobile-det", "openvino")
    sides = [(height, width) for height in range(64, 448, 32) for width in range(64, 448, 32)]
    sizes = [_resident_mib(det, sides[start::4]) for start in range(4)]
    assert sizes[3] - sizes[1] < 60  # with OpenVINO's own 5,000 kernels: 194


def _resident_mib(det: Session, sides: list[tuple[int, int]]) -> float:
    for height, width in sides:
        det({"image": np.zeros((1, height, width, 3), np.uint8)})
    pages = int(STATM.read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def test_a_page_reads_as_on_the_cpu() -> None:
    page, expected = (Engine.load(device=device).read(PAGE) for device in ("openvino", "cpu"))
    assert [line.text for line in page.lines] == [line.text for line in expected.lines]
    assert [line.quad_px for line in page.lines] == [line.quad_px for line in expected.lines]
    for ours, theirs in zip(page.lines, expected.lines, strict=True):
        assert ours.rec_score == pytest.approx(theirs.rec_score, abs=1e-3)
    assert page.provenance is not None
    assert page.provenance.provider == "OpenVINOExecutionProvider"
    assert page.provenance.precision == "fp32"


def test_the_processor_tells_what_it_computes_in() -> None:
    assert "FP32" in (runtime.probe.openvino_capabilities() or ())


def test_bf16_is_honoured_or_refused() -> None:
    path = model_store.embedded_dir() / "ppocrv4-mobile-rec.onnx"
    options = RuntimeOptions("openvino", precision="bf16")
    if runtime.why_no_bf16(Device("openvino")) is None:
        assert Session(path, options).provider == "OpenVINOExecutionProvider"
    else:
        with pytest.raises(DeviceError, match="has no bf16 on this processor"):
            Session(path, options)


def test_the_doctor_tells_of_bf16() -> None:
    [check] = [check for check in doctor.examine() if check.topic == "precision"]
    assert check.state == ("ok" if runtime.why_no_bf16(Device("openvino")) is None else "note")


def test_auto_takes_the_cpu_which_is_faster() -> None:
    assert runtime.find_device("auto") == Device("cpu")
