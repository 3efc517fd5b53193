"""Run as a script by an interpreter that has Paddle: a job in JSON comes in, files go out.

It imports nothing of ocr-onnx, so that any environment with `paddlepaddle` and `paddle2onnx` can
run it, and it is a process of its own, because both packages abort rather than raise on some input.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def convert(program: str, params: str, out: str, opset: int) -> None:
    """Write `out`, the ONNX file Paddle2ONNX makes of a program and its parameters."""
    import paddle2onnx

    paddle2onnx.export(program, params, out, opset_version=opset, optimize_tool="onnxoptimizer")


def upgrade(program: str, params: str, out: str) -> None:
    """Write a legacy program as PIR: `out`.json and `out`.pdiparams."""
    import paddle
    from paddle.base import executor, libpaddle

    paddle.enable_static()
    runner = paddle.static.Executor(paddle.CPUPlace())
    with paddle.pir_utils.OldIrGuard():
        stem = str(Path(program).with_suffix(""))
        legacy, _, _ = paddle.static.load_inference_model(
            stem, runner, model_filename=program, params_filename=params
        )
    translated = paddle.pir.translate_to_pir(legacy.desc)
    stored = ("builtin.parameter", "pd_op.data")
    values = [
        value
        for value in translated.list_vars()
        if value.persistable and value.get_defining_op().name() in stored
    ]
    libpaddle.pir.create_loaded_parameter(values, executor.global_scope(), runner._default_executor)
    operations = translated.global_block().ops
    feeds = [result for op in operations if op.name() == "pd_op.feed" for result in op.results()]
    fetches = [source for op in operations if op.name() == "pd_op.fetch" for source in op.operands_source()]
    with paddle.pir_utils.IrGuard():
        paddle.static.save_inference_model(out, feeds, fetches, runner, program=translated)


def run(program: str, params: str, feeds: str, out: str) -> None:
    """Run a program on every array of `feeds` (.npz, in name order); write outputs and times to `out`.

    oneDNN and graph optimisation are off: what is wanted is the program as it stands.
    """
    from paddle import inference

    config = inference.Config(program, params)
    config.disable_gpu()
    config.disable_mkldnn()
    config.switch_ir_optim(False)
    config.set_cpu_math_library_num_threads(os.cpu_count() or 1)
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    target = predictor.get_output_handle(predictor.get_output_names()[0])
    results = {}
    with np.load(feeds) as arrays:
        for name in sorted(arrays.files):
            source.copy_from_cpu(np.ascontiguousarray(arrays[name]))
            start = time.perf_counter()
            predictor.run()
            results[f"ms_{name}"] = np.array(1e3 * (time.perf_counter() - start))
            results[name] = target.copy_to_cpu()
    np.savez(out, allow_pickle=False, **results)


def versions(out: str) -> None:
    """Write the versions of the packages that take part to `out`, as JSON."""
    packages = ("paddle2onnx", "paddlepaddle")
    Path(out).write_text(json.dumps({name: importlib.metadata.version(name) for name in packages}))


def main(job: dict[str, Any]) -> None:
    """Do one job: `task` names the function, the rest are its arguments."""
    tasks: dict[str, Callable[..., None]] = {
        "convert": convert,
        "run": run,
        "upgrade": upgrade,
        "versions": versions,
    }
    tasks[job.pop("task")](**job)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
