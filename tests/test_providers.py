from dataclasses import replace

import pytest

from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Device
from ocr_onnx.runtime.providers import (
    CudaOptions,
    GpuOptions,
    TensorRtOptions,
    cuda_options,
    provider_chain,
    provider_options,
    tensorrt_options,
    version_pair,
    why_refused,
)

ENGINE = TensorRtOptions("x:1x3x32x32", "x:1x3x736x736", "x:1x3x992x992", "/cache/det", "det-std")


def test_cuda_is_told_to_suit_shapes_that_vary() -> None:
    assert cuda_options(CudaOptions(1, memory_limit_bytes=2048), "1.31.1") == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_use_max_workspace": "1",
        "do_copy_in_default_stream": "1",
        "use_tf32": "1",
        "enable_cudnn": "1",
        "gpu_mem_limit": "2048",
    }


@pytest.mark.parametrize(
    ("version", "known"), [("1.24.4", False), ("1.26.0", False), ("1.28.0", True), ("2.0.0", True)]
)
def test_a_name_that_this_onnxruntime_does_not_know_is_left_out(version: str, known: bool) -> None:
    assert ("enable_cudnn" in cuda_options(CudaOptions(), version)) is known


def test_no_limit_is_told_as_nothing() -> None:
    assert "gpu_mem_limit" not in cuda_options(CudaOptions(), "1.31.1")
    assert "trt_max_workspace_size" not in tensorrt_options(ENGINE, "1.31.1")
    assert "trt_timing_cache_path" not in tensorrt_options(ENGINE, "1.31.1")


def test_tensorrt_is_told_its_profile_and_where_its_engine_lies() -> None:
    options = tensorrt_options(ENGINE, "1.31.1")
    assert options["trt_profile_min_shapes"] == "x:1x3x32x32"
    assert options["trt_profile_opt_shapes"] == "x:1x3x736x736"
    assert options["trt_profile_max_shapes"] == "x:1x3x992x992"
    assert options["trt_engine_cache_path"] == "/cache/det"
    assert options["trt_engine_cache_prefix"] == "det-std"
    assert "trt_fp16_enable" not in options


def test_tensorrt_may_compute_in_half_precision_for_files_in_fp16_alone() -> None:
    options = tensorrt_options(replace(ENGINE, half=True), "1.31.1")
    assert (options["trt_fp16_enable"], options["trt_layer_norm_fp32_fallback"]) == ("1", "1")


def test_the_options_of_the_runtime_reach_the_provider() -> None:
    options = provider_options(Device("cuda", 2), 1, gpu=GpuOptions(memory_mib=3, tf32=False))
    assert (options["device_id"], options["use_tf32"]) == ("2", "0")
    assert options["gpu_mem_limit"] == str(3 * 1024 * 1024)


def test_cuda_stands_behind_tensorrt_on_the_same_gpu() -> None:
    chain = provider_chain(
        Device("tensorrt", 1), 1, "fp32", GpuOptions(memory_mib=1, engine=ENGINE), "1.31.1"
    )
    assert [name for name, _ in chain] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert chain[1][1]["device_id"] == "1"
    assert chain[1][1]["gpu_mem_limit"] == "1048576"


@pytest.mark.parametrize("kind", ["cpu", "cuda", "openvino"])
def test_other_devices_have_one_provider(kind: str) -> None:
    device = Device(kind)  # type: ignore[arg-type]
    assert len(provider_chain(device, 1, "fp32", GpuOptions(), "1.31.1")) == 1


@pytest.mark.parametrize("options", [RuntimeOptions(gpu_memory_mib=1), RuntimeOptions(tf32=False)])
@pytest.mark.parametrize("device", [Device("cpu"), Device("openvino")])
def test_options_of_gpus_are_refused_elsewhere(device: Device, options: RuntimeOptions) -> None:
    cause = why_refused(device, options, None)
    assert cause is not None
    assert f"is for GPUs, and this is {device.kind}" in str(cause)
    assert why_refused(Device("cuda"), options, None) is None
    assert why_refused(device, RuntimeOptions(), None) is None


def test_tensorrt_multiplies_without_tf32_only_where_the_environment_says_so() -> None:
    options = RuntimeOptions(tf32=False)
    cause = why_refused(Device("tensorrt"), options, None)
    assert cause is not None
    assert "NVIDIA_TF32_OVERRIDE=0" in cause.remedy
    assert why_refused(Device("tensorrt"), options, "0") is None


def test_versions_compare_as_numbers() -> None:
    assert version_pair("1.9.0") < version_pair("1.31.1") < version_pair("1.32.0.dev20260101")
