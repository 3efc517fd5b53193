"""What must hold on a GPU: `ocr-onnx bench gpu` measures it, these tests draw the lines."""

from pathlib import Path

import pytest

from ocr_onnx import runtime
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OcrError
from ocr_onnx.runtime import Device
from ocr_onnx_bench import gpu_networks, gpu_pages
from ocr_onnx_bench.gpu import run_part
from ocr_onnx_bench.gpu_device import Plan
from ocr_onnx_bench.gpu_record import Figure

PLAN = Plan("cuda:0", quick=True)
SLACK_MIB = 1024.0  # of other programs on the GPU, and of the allocator's granularity


def missing() -> OcrError | None:
    """Return why there is no GPU to test on."""
    return runtime.why_unusable(Device("cuda"))


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(missing() is not None, reason=f"no usable GPU: {missing()}"),
]


def values(figures: tuple[Figure, ...]) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_every_model_agrees_with_the_cpu_and_runs_on_the_gpu() -> None:
    found = gpu_networks.parity(PLAN)
    assert found.problem == ""
    assert all(one.provider == "CUDAExecutionProvider" for one in found.ran)


def test_the_text_of_drawn_pages_is_that_of_the_cpu() -> None:
    assert gpu_pages.texts(PLAN).problem == ""


def test_a_loaded_engine_says_where_it_ran(tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(Path("tests/data/boarding-pass.png").read_bytes())
    result = Engine.load(device="cuda").read(page)
    assert result.provenance is not None
    assert (result.provenance.device, result.provenance.provider) == ("cuda:0", "CUDAExecutionProvider")
    assert "BOARDING" in result.text


def test_memory_settles_over_random_shapes() -> None:
    part = run_part("memory-bounded", Plan("cuda:0"))  # in a process of its own, with all 300 shapes
    assert part.error == ""
    found = values(part.outcome.figures)
    half = part.outcome.series[0].values[len(part.outcome.series[0].values) // 2]
    assert found["end"] - half < SLACK_MIB
