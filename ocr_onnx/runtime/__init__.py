"""THE package that imports ONNX Runtime: a device and a model file in, a session that ran on it out."""

from ocr_onnx.runtime.binding import Array
from ocr_onnx.runtime.device import PROVIDERS, Device, DeviceKind, parse_device
from ocr_onnx.runtime.model import Model, open_model
from ocr_onnx.runtime.opening import open_session
from ocr_onnx.runtime.probe import (
    FP16_DEVICES,
    DeviceReport,
    Granted,
    device_reports,
    find_device,
    granted,
    honoured,
    why_no_bf16,
    why_no_precision,
    why_unusable,
)
from ocr_onnx.runtime.providers import provider_options
from ocr_onnx.runtime.replicas import Replicas
from ocr_onnx.runtime.session import Session, TensorInfo, node_placement
from ocr_onnx.runtime.wheels import installed_wheels, onnxruntime

__all__ = [
    "FP16_DEVICES",
    "PROVIDERS",
    "Array",
    "Device",
    "DeviceKind",
    "DeviceReport",
    "Granted",
    "Model",
    "Replicas",
    "Session",
    "TensorInfo",
    "device_reports",
    "find_device",
    "granted",
    "honoured",
    "installed_wheels",
    "node_placement",
    "onnxruntime",
    "open_model",
    "open_session",
    "parse_device",
    "provider_options",
    "why_no_bf16",
    "why_no_precision",
    "why_unusable",
]
