"""Model files and runtime options in; nothing out, where those files may be used in that precision."""

from dataclasses import replace

from ocr_onnx import runtime
from ocr_onnx.errors import ModelError, OptionError
from ocr_onnx.manifest import Stage
from ocr_onnx.model_store import ModelFile, ModelFiles
from ocr_onnx.options import ModelOptions, RuntimeOptions


def admit(
    files: ModelFiles,
    options: RuntimeOptions,
    models: ModelOptions = ModelOptions(),
    *,
    with_cls: bool = False,
) -> None:
    """Make sure that the files may be used in the precision of the options.

    The first use of FP16 files on a kind of GPU takes seconds: `agreement` compares them with FP32.

    Raises
    ------
    OptionError
        FP16 on a device that has none, or an FP16 file on a GPU without having asked for FP16.
    ModelError
        A file that is not FP16 where FP16 was asked for, one that nothing is there to compare with,
        or one whose answers differ too much.
    DeviceError
        The device can't be used.
    """
    used: dict[Stage, ModelFile] = {"det": files.det, "rec": files.rec}
    if with_cls:
        used["cls"] = files.cls
    if options.precision != "fp16":
        _refuse_halves(used, options)
        return
    device = runtime.honoured(options)
    for stage, file in used.items():
        if file.spec.precision != "fp16":
            raise ModelError(
                file.spec.name,
                f"is not an FP16 file ({file.path.name}), and runtime.precision is fp16",
                f"make one with `ocr-onnx export {file.path} --out DIR --precision fp16`, then add "
                f"--model-dir DIR ({stage} needs its own)",
            )
    # Here and not above: what compares takes its time to load, and few ask for it.
    from ocr_onnx import agreement

    for stage, file in used.items():
        for one in device.each:  # of several GPUs every one, as they may be of different kinds
            agreement.require(stage, file, one, replace(options, device=str(one)), models)


def _refuse_halves(used: dict[Stage, ModelFile], options: RuntimeOptions) -> None:
    halves = [file.spec.name for file in used.values() if file.spec.precision == "fp16"]
    if halves and runtime.find_device(options.device).kind in runtime.FP16_DEVICES:
        raise OptionError(
            f"runtime.precision={options.precision}",
            f"was asked for, but {' and '.join(halves)} are FP16 files here",
            "add --precision fp16, or leave out the --model-dir that has them",
        )
