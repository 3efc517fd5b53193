"""A device -> the options of its execution provider. Pure."""

import json
from collections.abc import Mapping

from ocr_onnx.options import Precision
from ocr_onnx.runtime.device import Device

OPENVINO_PRECISIONS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
OPENVINO_KEPT_KERNELS = "100"  # of each network


def provider_options(device: Device, threads: int, precision: Precision = "fp32") -> dict[str, str]:
    """Return ONNX Runtime's options for a device; a name that it does not know would lose the provider."""
    if device.kind == "cuda":
        # Every page is a new shape: an exhaustive search for each costs seconds, and doubling
        # arenas never give memory back.
        return {
            "device_id": str(device.index),
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
    if device.kind == "openvino":
        properties = {
            # Told nothing, OpenVINO computes in bf16 where the processor has it.
            "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision],
            # It would bind the threads of every session to the same first processors: two sessions
            # of one thread, or two such processes, would share one.
            "ENABLE_CPU_PINNING": "NO",
            # It keeps kernels of every shape that it met, thousands unless told: 320 MiB more after 180
            # shapes, for no speed, as pages and lines hardly repeat their sizes.
            "CPU_RUNTIME_CACHE_CAPACITY": OPENVINO_KEPT_KERNELS,
        }
        return {
            "device_type": "CPU",
            "num_of_threads": str(threads),
            # JSON itself: a file's path, and the option `precision` with bf16, lose the provider
            "load_config": json.dumps({"CPU": properties}),
        }
    return {}
