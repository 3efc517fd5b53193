"""A device and what was asked of it -> the options of its execution provider. Pure.

A name that the installed ONNX Runtime does not know loses the provider, and with it the GPU: names
younger than the oldest version we take are left out where they are not known.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ocr_onnx.errors import OptionError
from ocr_onnx.options import Precision, RuntimeOptions
from ocr_onnx.runtime.device import PROVIDERS, Device

OPENVINO_PRECISIONS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
OPENVINO_KEPT_KERNELS = "2000"  # of each network
MIB = 1024 * 1024
# The version of ONNX Runtime that first knows an option; the providers of 1.24.4 and 1.31.1 know all others.
SINCE: Mapping[str, tuple[int, int]] = {"enable_cudnn": (1, 28)}


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """Options of the CUDA provider, set for shapes that vary.

    `memory_limit_bytes` bounds the arena of one session, 0 for none: weights, activations and cuDNN's
    workspace, but not the CUDA context or the libraries' own memory. `conv_search` is HEURISTIC as
    the provider's default measures every algorithm at every new shape, for hundreds of milliseconds.
    `arena_growth` is kSameAsRequested as an arena that doubles never gives memory back.
    """

    device_id: int = 0
    memory_limit_bytes: int = 0
    tf32: bool = True
    conv_search: Literal["HEURISTIC", "EXHAUSTIVE"] = "HEURISTIC"
    arena_growth: Literal["kSameAsRequested", "kNextPowerOfTwo"] = "kSameAsRequested"
    max_conv_workspace: bool = True
    copy_in_default_stream: bool = True


@dataclass(frozen=True, slots=True)
class TensorRtOptions:
    """Options of the TensorRT provider for one engine.

    The three shapes name every input with its sizes ("image:1x32x32x3,valid_w:1"): with them the
    engine is built, or loaded from `cache_folder`, when the session opens, and never again.
    `prefix` begins the engine's file name. `timing_folder` keeps what the builder timed; empty where
    nothing is to be built. `workspace_bytes` bounds the scratch memory of the engine, 0 for no bound.

    `half` is for files in FP16 alone, of which TensorRT 10 builds no engine unless told that it may
    compute so. A float32 file never gets it: that destroys PP-OCRv4's detector.
    """

    min_shapes: str
    opt_shapes: str
    max_shapes: str
    cache_folder: str
    prefix: str
    timing_folder: str = ""
    device_id: int = 0
    workspace_bytes: int = 0
    half: bool = False
    optimization_level: Literal[0, 1, 2, 3, 4, 5] = 3
    share_context_memory: bool = True


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What a session on a GPU is told beside the device; `engine` where TensorRT runs the model."""

    memory_mib: int = 0
    tf32: bool = True
    engine: TensorRtOptions | None = None


def provider_options(
    device: Device,
    threads: int,
    precision: Precision = "fp32",
    gpu: GpuOptions = GpuOptions(),
    ort_version: str = "1.24",
) -> dict[str, str]:
    """Return ONNX Runtime's options for a device; a name that it does not know would lose the provider."""
    if device.kind == "cuda":
        cuda = CudaOptions(device.index, memory_limit_bytes=gpu.memory_mib * MIB, tf32=gpu.tf32)
        return cuda_options(cuda, ort_version)
    if device.kind == "tensorrt":
        return (
            {"device_id": str(device.index)}
            if gpu.engine is None
            else tensorrt_options(gpu.engine, ort_version)
        )
    if device.kind == "openvino":
        return _openvino_options(threads, precision)
    return {}


def provider_chain(
    device: Device, threads: int, precision: Precision, gpu: GpuOptions, ort_version: str
) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a session, with their options, the device's own first.

    Behind TensorRT stands CUDA, for operations that TensorRT does not have; else they would run on
    the processor.
    """
    own = (PROVIDERS[device.kind], provider_options(device, threads, precision, gpu, ort_version))
    if device.kind != "tensorrt":
        return [own]
    cuda = Device("cuda", device.index)
    return [own, (PROVIDERS["cuda"], provider_options(cuda, threads, precision, gpu, ort_version))]


def cuda_options(options: CudaOptions, ort_version: str) -> dict[str, str]:
    """Return the options of the CUDA provider as ONNX Runtime spells them."""
    limit = {"gpu_mem_limit": str(options.memory_limit_bytes)} if options.memory_limit_bytes else {}
    return _known(
        {
            "device_id": str(options.device_id),
            "cudnn_conv_algo_search": options.conv_search,
            "arena_extend_strategy": options.arena_growth,
            "cudnn_conv_use_max_workspace": _flag(options.max_conv_workspace),
            "do_copy_in_default_stream": _flag(options.copy_in_default_stream),
            "use_tf32": _flag(options.tf32),
            "enable_cudnn": "1",  # without it there are no convolutions
            **limit,
        },
        ort_version,
    )


def tensorrt_options(options: TensorRtOptions, ort_version: str) -> dict[str, str]:
    """Return the options of the TensorRT provider as ONNX Runtime spells them."""
    workspace = {"trt_max_workspace_size": str(options.workspace_bytes)} if options.workspace_bytes else {}
    timing = (
        {"trt_timing_cache_enable": "1", "trt_timing_cache_path": options.timing_folder}
        if options.timing_folder
        else {}
    )
    # normalisations of layers are where half precision overflows first
    half = {"trt_fp16_enable": "1", "trt_layer_norm_fp32_fallback": "1"} if options.half else {}
    return _known(
        {
            "device_id": str(options.device_id),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": options.cache_folder,
            "trt_engine_cache_prefix": options.prefix,
            "trt_profile_min_shapes": options.min_shapes,
            "trt_profile_opt_shapes": options.opt_shapes,
            "trt_profile_max_shapes": options.max_shapes,
            "trt_builder_optimization_level": str(options.optimization_level),
            "trt_context_memory_sharing_enable": _flag(options.share_context_memory),
            **timing,
            **workspace,
            **half,
        },
        ort_version,
    )


def why_refused(device: Device, options: RuntimeOptions, tf32_override: str | None) -> OptionError | None:
    """Return the error for an option of GPUs that this device can't honour; None where it honours all.

    `tf32_override` is the environment's NVIDIA_TF32_OVERRIDE, which TensorRT heeds.
    """
    on_gpu = device.kind in ("cuda", "tensorrt")
    if options.gpu_memory_mib and not on_gpu:
        problem = f"is for GPUs, and this is {device}"
        return OptionError("runtime.gpu_memory_mib", problem, "leave it at 0, or use --device cuda")
    if not options.tf32 and not on_gpu:
        problem = f"is for GPUs, and this is {device}"
        return OptionError("runtime.tf32=false", problem, "leave it at true, or use --device cuda")
    if not options.tf32 and device.kind == "tensorrt" and tf32_override != "0":
        problem = "is nothing that ONNX Runtime can tell TensorRT"
        remedy = "set NVIDIA_TF32_OVERRIDE=0 in the environment as well, or use --device cuda"
        return OptionError("runtime.tf32=false", problem, remedy)
    return None


def version_pair(version: str) -> tuple[int, int]:
    """Return major and minor of a version ("1.31.1", "1.32.0.dev1")."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def _openvino_options(threads: int, precision: Precision) -> dict[str, str]:
    properties = {
        # Told nothing, OpenVINO computes in bf16 where the processor has it.
        "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision],
        # It would bind the threads of every session to the same first processors: two sessions
        # of one thread, or two such processes, would share one.
        "ENABLE_CPU_PINNING": "NO",
        # It keeps kernels of every shape that it met, without an end that a service would reach: 748 MiB
        # after 180 shapes. Of 2,000 kernels, some 60 shapes, memory stays (487 MiB) and pages that recur keep
        # their speed; of 100 they lose it.
        "CPU_RUNTIME_CACHE_CAPACITY": OPENVINO_KEPT_KERNELS,
    }
    return {
        "device_type": "CPU",
        "num_of_threads": str(threads),
        # JSON itself: a file's path, and the option `precision` with bf16, lose the provider
        "load_config": json.dumps({"CPU": properties}),
    }


def _known(options: Mapping[str, str], ort_version: str) -> dict[str, str]:
    """Leave out what this version of ONNX Runtime does not know yet."""
    version = version_pair(ort_version)
    return {name: value for name, value in options.items() if version >= SINCE.get(name, (0, 0))}


def _flag(value: bool) -> str:
    return "1" if value else "0"
