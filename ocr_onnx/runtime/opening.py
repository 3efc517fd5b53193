"""A device and a model in, a session of ONNX Runtime out, opened with the settings that suit pages."""

import functools
from typing import Any

from ocr_onnx.errors import DeviceError, ModelContractError
from ocr_onnx.options import Precision
from ocr_onnx.runtime import wheels
from ocr_onnx.runtime.device import PROVIDERS, Device
from ocr_onnx.runtime.providers import GpuOptions, provider_chain

LOG_ERRORS_ONLY = 3


def open_session(
    subject: str,
    model: str | bytes,
    device: Device,
    threads: int,
    precision: Precision = "fp32",
    profile: str | None = None,
    gpu: GpuOptions = GpuOptions(),
) -> Any:
    """Open an ONNX Runtime session for a path or a model's bytes; `subject` names it in errors.

    With `profile`, ONNX Runtime writes a trace of every run to a file whose path begins so.
    """
    ort = wheels.onnxruntime()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = LOG_ERRORS_ONLY
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile
    # Memory patterns are cached for every new shape and pages have many; the arena alone is as
    # flat over time and does not cost speed.
    settings.enable_mem_pattern = False
    # det, cls and rec take turns: an idle session's spinning threads would steal the cores.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device.kind == "cpu":
        _share_arena()
        settings.add_session_config_entry("session.use_env_allocators", "1")
    # fused operations of ONNX Runtime's own are neither OpenVINO's nor TensorRT's
    if device.kind in ("openvino", "tensorrt"):
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    provider = PROVIDERS[device.kind]
    try:
        session = ort.InferenceSession(
            model,
            settings,
            providers=provider_chain(device, threads, precision, gpu, ort.__version__),
            enable_fallback=0,
        )
    except wheels.ort_errors() as error:
        problem = f"can't be opened as an ONNX model on {device}: {wheels.first_line(error)}"
        raise ModelContractError(
            subject, problem, "give an ONNX file, complete and not of another format"
        ) from error
    active = session.get_providers()[0]
    if active != provider:
        raise DeviceError(
            str(device),
            f"ONNX Runtime chose {active} instead",
            "run `ocr-onnx doctor` to see what is missing",
        )
    return session


@functools.cache
def _share_arena() -> None:
    """Let all sessions of the process use one arena: what det leaves, rec fills, and both never hold theirs.

    Reading A4 scans takes 305 instead of 350 MiB so. A forked child inherits the arena.
    """
    ort = wheels.onnxruntime()
    kind, use = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    defaults = ort.OrtArenaCfg(0, -1, -1, -1)
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, use), defaults)
