"""A device and a model in, a session of ONNX Runtime out, opened with the settings that suit pages."""

import contextlib
import functools
import re
from collections.abc import Mapping
from typing import Any

from ocr_onnx.errors import DeviceError, ModelContractError, OcrError
from ocr_onnx.options import Precision
from ocr_onnx.runtime import libraries, wheels
from ocr_onnx.runtime.device import ON_PROCESSOR, PROVIDERS, Device
from ocr_onnx.runtime.providers import GpuOptions, provider_chain

LOG_ERRORS_ONLY = 3
DOCTOR = "run `ocr-onnx doctor` to see what is installed and what is missing"


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

    One provider is asked for, and ONNX Runtime's own fallback is off: DeviceError where the device fails
    or the session landed on another, ModelContractError where the model can't be opened.
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
    chain = provider_chain(device, threads, precision, gpu, ort.__version__)
    on_gpu = device.kind not in ON_PROCESSOR
    if on_gpu:
        libraries.find_cuda(ort)  # its provider does not find them where pip puts them
    try:
        with wheels.quiet(ort) if on_gpu else contextlib.nullcontext():
            session = ort.InferenceSession(model, settings, providers=chain, enable_fallback=0)
    except wheels.ort_errors() as error:
        raise _refusal(subject, device, error) from error
    active = session.get_providers()[0]
    if active != PROVIDERS[device.kind]:
        raise _vanished(device, active, chain[0][1])
    return session


def _refusal(subject: str, device: Device, error: Exception) -> OcrError:
    """Return the error for what ONNX Runtime raised: about the device where that failed, else the model."""
    unknown = re.search(r'Unknown provider option: "([^"]*)"', str(error))
    if unknown:
        problem = f"ONNX Runtime does not know the provider option {unknown[1]!r}"
        return DeviceError(str(device), problem, f"install a version that does; {DOCTOR}")
    cause = wheels.first_line(error)
    if device.kind not in ON_PROCESSOR and isinstance(error, wheels.gpu_errors()):
        remedy = "look what `nvidia-smi` says of the driver and of memory" if "CUDA" in cause else DOCTOR
        return DeviceError(str(device), f"could not open {subject}: {cause}", remedy)
    problem = f"can't be opened as an ONNX model on {device}: {cause}"
    return ModelContractError(subject, problem, "give an ONNX file, complete and not of another format")


def _vanished(device: Device, active: str, options: Mapping[str, str]) -> DeviceError:
    """Return the error for a provider that ONNX Runtime dropped without raising anything."""
    names = f", or knows not all of its options ({', '.join(options)})" if options else ""
    problem = f"ONNX Runtime chose {active} instead: {PROVIDERS[device.kind]} does not load{names}"
    return DeviceError(str(device), problem, DOCTOR)


@functools.cache
def _share_arena() -> None:
    """Let all sessions of the process use one arena: what det leaves, rec fills, and both never hold theirs.

    Reading A4 scans takes 305 instead of 350 MiB so. A forked child inherits the arena.
    """
    ort = wheels.onnxruntime()
    kind, use = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    defaults = ort.OrtArenaCfg(0, -1, -1, -1)
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, use), defaults)


@functools.cache
def shrinking() -> Any:
    """Return options for a run that gives the system back what the CPU's arena holds unused after it."""
    options = wheels.onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
