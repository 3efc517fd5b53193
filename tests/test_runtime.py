import importlib.metadata
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest

from ocr_onnx import model_store, runtime
from ocr_onnx.errors import DependencyError, DeviceError, ModelContractError, OcrError, OptionError
from ocr_onnx.options import Precision, RuntimeOptions
from ocr_onnx.runtime import Device, Session, opening, probe, wheels
from ocr_onnx.runtime import session as session_module
from ocr_onnx.runtime.providers import GpuOptions

STATM = Path("/proc/self/statm")
CPU = RuntimeOptions("cpu", threads=1)


def _run(session: Session) -> float:
    x = np.ones((1, 3, 48, 64), np.float32)
    return float(session({"x": x})[0].sum())


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda", 0)),
        ("cuda:3", Device("cuda", 3)),
        ("gpu:1", Device("cuda", 1)),
        ("cuda:0,1", Device("cuda", 0, (1,))),
        ("gpu:3,0,2", Device("cuda", 3, (0, 2))),
        ("tensorrt:2", Device("tensorrt", 2)),
        ("tensorrt:1,2", Device("tensorrt", 1, (2,))),
        ("openvino", Device("openvino")),
    ],
)
def test_devices_parse(text: str, device: Device) -> None:
    assert runtime.parse_device(text) == device


@pytest.mark.parametrize(
    "text", ["", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "tpu", "CPU", "openvino:0", "cpu:0,1", "cpu,cuda"]
)
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"runtime\.device"):
        runtime.parse_device(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cuda:0,", "no number of a GPU between its commas"),
        ("cuda:,1", "no number of a GPU between its commas"),
        ("cuda:0,,1", "no number of a GPU between its commas"),
        ("cuda:0,cuda:1", "no number of a GPU between its commas"),
        ("cuda:0, 1", "no number of a GPU between its commas"),
        ("cuda:99999", "no number of a GPU after the colon"),
        ("cuda:1,1", "names a GPU twice"),
        ("tensorrt:0,1,00", "names a GPU twice"),
    ],
)
def test_several_gpus_are_named_once_each(text: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        runtime.parse_device(text)


def test_several_gpus_are_each_a_device() -> None:
    assert Device("cuda", 1, (0,)).each == (Device("cuda", 1), Device("cuda", 0))
    assert Device("cpu").each == (Device("cpu"),)


def test_every_one_of_several_gpus_has_to_work(tiny_rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why_unusable = probe.why_unusable

    def only_first(device: Device) -> OcrError | None:
        if device.more:
            return why_unusable(device)
        return DeviceError(str(device), "is not there", "look") if device.index else None

    monkeypatch.setattr(probe, "why_unusable", only_first)
    with pytest.raises(DeviceError, match="cuda:1: is not there"):
        runtime.find_device("cuda:0,1")
    with pytest.raises(DeviceError, match="cuda:1: is not there"):
        runtime.open_model(tiny_rec, "rec", RuntimeOptions("cuda:0,1"))
    monkeypatch.setattr(probe, "why_unusable", lambda _: None)
    assert runtime.find_device("cuda:0,1") == Device("cuda", 0, (1,))
    with pytest.raises(OptionError, match=r"cuda:0,1: are several GPUs, and a session runs on one"):
        Session(tiny_rec, RuntimeOptions("cuda:0,1"))


def test_device_names_read_back() -> None:
    several = Device("cuda", 1, (0, 3))
    for device in (Device("cpu"), Device("cuda", 1), several, Device("tensorrt", 2), Device("openvino")):
        assert runtime.parse_device(str(device)) == device


def test_a_session_knows_its_model(tiny_rec: Path) -> None:
    session = Session(tiny_rec, CPU)
    assert session.inputs == (runtime.TensorInfo("x", "tensor(float)", (None, 3, 48, None)),)
    assert session.outputs[0].shape == (None, None, 4)
    assert session.metadata["stage"] == "rec"
    assert (session.provider, str(session.device)) == ("CPUExecutionProvider", "cpu")


def test_many_threads_share_a_session(tiny_rec: Path) -> None:
    session = Session(tiny_rec, CPU)
    expected = _run(session)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: _run(session), range(64))) == {expected}


@pytest.mark.parametrize(
    ("threads", "at_once"), [((4,), 1), ((2,), 2), ((1,), 4), ((8,), 1), ((3, 2), 1), ((3, 1), 2)]
)
def test_runs_of_all_sessions_take_turns(
    tiny_det: Path, monkeypatch: pytest.MonkeyPatch, threads: tuple[int, ...], at_once: int
) -> None:
    monkeypatch.setattr(session_module, "usable_threads", lambda: 4)
    monkeypatch.setattr(session_module, "_PROCESSES", {})
    running, most = 0, 0
    lock = threading.Lock()

    def run(_outputs: object, _feeds: object, _options: object) -> list[object]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return []

    sessions = [Session(tiny_det, RuntimeOptions("cpu", threads=count)) for count in threads]
    for session in sessions:
        opened = session._opened[os.getpid()]
        session._opened[os.getpid()] = opened._replace(session=SimpleNamespace(run=run))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: sessions[number % len(sessions)]({}), range(16)))
    assert 1 <= most <= at_once


@pytest.mark.skipif(not STATM.is_file(), reason="only Linux tells a process's memory by a file")
def test_memory_that_pages_no_longer_need_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SHRINK_EVERY", 2)
    monkeypatch.setattr(session_module, "_PROCESSES", {})
    det = Session(model_store.embedded_dir() / "ppocrv4-mobile-det.onnx", CPU)
    monkeypatch.setattr(session_module, "_PROCESSES", {})
    big, small = (np.zeros((1, side, side, 3), np.uint8) for side in (1024, 32))
    held = []
    for images in (big, small):  # the second run empties the arena
        det({"image": images})
        held.append(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20)
    assert held[0] - held[1] > 50


def test_a_session_with_other_threads_is_opened_once_and_answers_alike(
    tiny_rec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tiny_rec, RuntimeOptions("cpu", threads=2))
    opened: list[int] = []
    open_session = runtime.open_session

    def counted(
        subject: str,
        model: str,
        device: Device,
        threads: int,
        precision: Precision = "fp32",
        gpu: GpuOptions = GpuOptions(),
    ) -> object:
        opened.append(threads)
        return open_session(subject, model, device, threads, precision, gpu=gpu)

    monkeypatch.setattr(opening, "open_session", counted)
    other = session.with_threads(1)
    assert opened == []
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: _run(other), range(8))) == {_run(session)}
    assert opened == [1]
    assert session.with_threads(1) is other
    assert other.with_threads(2) is session
    assert _run(pickle.loads(pickle.dumps(other))) == _run(session)


def test_a_session_tells_the_shapes_it_has_seen(tiny_rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_SHAPES", 3)
    session = Session(tiny_rec, CPU)
    assert session.shapes_seen() == frozenset()
    _run(session)
    _run(session.with_threads(2))
    assert session.shapes_seen() == {((1, 3, 48, 64),)}
    for width in (8, 16, 24, 32):
        session({"x": np.ones((1, 3, 48, width), np.float32)})
    assert len(session.shapes_seen()) == 3
    assert session.with_threads(2).shapes_seen() == session.shapes_seen()


def test_a_session_survives_pickling(tiny_rec: Path) -> None:
    session = Session(tiny_rec, CPU)
    assert _run(pickle.loads(pickle.dumps(session))) == _run(session)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
def test_a_session_survives_a_fork(tiny_rec: Path) -> None:
    session = Session(tiny_rec, RuntimeOptions("cpu", threads=2))
    expected = _run(session)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_run, (session,)).get(timeout=60) == expected
    assert _run(session) == expected


def test_a_forked_child_uses_the_inherited_object(tiny_rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(tiny_rec, CPU)
    expected = _run(session)
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert _run(session) == expected
    assert _run(session) == expected


LEAVES_NORMALLY = """
import os, sys
from pathlib import Path
import numpy as np
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session

session = Session(Path(sys.argv[1]), RuntimeOptions("cpu", threads=2))
feeds = {"x": np.ones((1, 3, 48, 64), np.float32)}
session(feeds)
child = os.fork()
if child == 0:
    session(feeds)
    sys.exit(7)  # runs destructors, unlike the os._exit of multiprocessing
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_forked_child_that_leaves_normally_comes_to_an_end(tiny_rec: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES_NORMALLY, str(tiny_rec)], timeout=60, check=False)
    assert done.returncode == 7


def test_a_run_that_fails_names_the_model_and_the_shapes(tiny_rec: Path) -> None:
    with pytest.raises(ModelContractError, match=r"tiny-rec\.onnx: failed on x \[1, 3, 47, 64\]"):
        Session(tiny_rec, CPU)({"x": np.ones((1, 3, 47, 64), np.float32)})


def test_auto_without_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_installed(monkeypatch)
    with pytest.raises(DependencyError, match="not installed"):
        runtime.find_device("auto")


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\x08\x08" + b"\x00" * 100])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelContractError, match=r"broken\.onnx.*can't be opened as an ONNX model"):
        Session(path, CPU)


def test_a_truncated_model_is_refused(tiny_rec: Path) -> None:
    tiny_rec.write_bytes(tiny_rec.read_bytes()[:-60])
    with pytest.raises(ModelContractError, match=r"tiny-rec\.onnx"):
        Session(tiny_rec, CPU)


@pytest.mark.parametrize(
    ("device", "extra"), [("cuda", "gpu"), ("tensorrt", "tensorrt"), ("openvino", "openvino")]
)
def test_a_provider_that_was_not_built_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, device: str, extra: str
) -> None:
    monkeypatch.setattr(wheels, "onnxruntime", lambda: _fake_ort(["CPUExecutionProvider"]))
    with pytest.raises(DeviceError, match=rf"{device}.*has no .*install 'ocr-onnx\[{extra}\]'"):
        runtime.find_device(device)


def _fake_ort(providers: list[str]) -> SimpleNamespace:
    return SimpleNamespace(get_available_providers=lambda: providers)


def test_a_session_on_another_provider_is_refused(tiny_rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime answers a wish for an absent provider with a CPU session and a warning."""
    monkeypatch.setattr(probe, "why_unusable", lambda _: None)
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(DeviceError, match="chose CPU"):
        Session(tiny_rec, RuntimeOptions("cuda"))


def test_auto_takes_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def only(kinds: set[str]) -> object:
        return lambda device: None if device.kind in kinds else DeviceError("x", "y", "z")

    monkeypatch.setattr(probe, "why_unusable", only({"cpu"}))
    assert runtime.find_device("auto") == Device("cpu")
    monkeypatch.setattr(probe, "why_unusable", only({"cpu", "openvino", "cuda"}))
    assert runtime.find_device("auto") == Device("cuda")


def test_cpu_is_reported_usable_and_nothing_else_by_mistake() -> None:
    reports = {report.device: report for report in runtime.device_reports()}
    assert reports["cpu"].usable
    assert reports["cpu"].detail == "ran a one-node model"
    assert not reports["tensorrt:0"].usable
    assert "install" in reports["tensorrt:0"].remedy


def _pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.32.0"

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_no_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_installed(monkeypatch)
    with pytest.raises(DependencyError, match=r"not installed; install 'ocr-onnx\[cpu\]'"):
        runtime.onnxruntime()
    assert not runtime.device_reports()[0].usable


def test_two_onnxruntimes_are_refused_with_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(DependencyError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        runtime.onnxruntime()


@pytest.mark.parametrize(
    ("wheel", "extra"),
    [("onnxruntime", "cpu"), ("onnxruntime-gpu", "gpu"), ("onnxruntime-openvino", "openvino")],
)
def test_an_onnxruntime_without_its_files_is_refused_with_the_repair(
    monkeypatch: pytest.MonkeyPatch, wheel: str, extra: str
) -> None:
    """What is left where two were installed and one was uninstalled: a name without content."""
    _pretend_installed(monkeypatch, wheel)
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    repair = rf"has lost its files.*pip uninstall -y {wheel}`, then install 'ocr-onnx\[{extra}\]' anew"
    with pytest.raises(DependencyError, match=repair):
        runtime.onnxruntime()


def test_an_onnxruntime_that_can_not_be_imported_is_refused_with_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"can't be imported \(import of onnxruntime halted.*anew"):
        runtime.onnxruntime()


def test_a_probe_that_fails_is_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_MODEL", b"broken")
    with pytest.raises(DeviceError, match="cpu: can't be opened"):
        runtime.find_device("cpu")


def test_the_probe_model_is_one_convolution() -> None:
    model = onnx.load_from_string(probe.PROBE_MODEL)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Conv"]


def test_provider_options() -> None:
    assert runtime.provider_options(Device("cpu"), 2) == {}
    assert runtime.provider_options(Device("cuda", 1), 2)["device_id"] == "1"
    assert runtime.provider_options(Device("cuda"), 2)["cudnn_conv_algo_search"] == "HEURISTIC"
    assert runtime.provider_options(Device("openvino"), 3)["num_of_threads"] == "3"


@pytest.mark.parametrize(("precision", "told"), [("fp32", "f32"), ("bf16", "bf16")])
def test_openvino_is_told_the_precision_and_not_to_bind_threads(precision: Precision, told: str) -> None:
    options = runtime.provider_options(Device("openvino"), 1, precision)
    properties = {
        "INFERENCE_PRECISION_HINT": told,
        "ENABLE_CPU_PINNING": "NO",
        "CPU_RUNTIME_CACHE_CAPACITY": "2000",
    }
    assert json.loads(options["load_config"]) == {"CPU": properties}
    assert "precision" not in options


def test_bf16_is_refused_on_another_device(tiny_rec: Path) -> None:
    with pytest.raises(OptionError, match=r"precision=bf16: is for device openvino, and this is cpu"):
        Session(tiny_rec, RuntimeOptions("cpu", precision="bf16"))


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        (RuntimeOptions(gpu_memory_mib=512), "runtime.gpu_memory_mib"),
        (RuntimeOptions(tf32=False), "runtime.tf32=false"),
    ],
)
def test_options_of_gpus_are_refused_on_a_processor(
    tiny_rec: Path, options: RuntimeOptions, subject: str
) -> None:
    with pytest.raises(OptionError, match="is for GPUs, and this is cpu") as caught:
        Session(tiny_rec, options)
    assert caught.value.subject == subject


@pytest.mark.parametrize(
    ("capabilities", "problem"),
    [
        (("FP32", "INT8", "BF16"), None),
        (("FP32", "INT8"), "has no bf16 on this processor, which has FP32, INT8"),
        (None, "does not tell whether this processor has instructions for bf16"),
    ],
)
def test_bf16_needs_a_processor_that_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: tuple[str, ...] | None, problem: str | None
) -> None:
    monkeypatch.setattr(probe, "openvino_capabilities", lambda: capabilities)
    cause = runtime.why_no_bf16(Device("openvino"))
    assert (cause and cause.problem) == problem


def test_bf16_that_openvino_lacks_is_refused_before_the_model_is_opened(
    tiny_rec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "why_unusable", lambda _: None)
    monkeypatch.setattr(probe, "openvino_capabilities", lambda: ("FP32",))
    with pytest.raises(DeviceError, match=r"has no bf16 on this processor.*use --precision fp32"):
        Session(tiny_rec, RuntimeOptions("openvino", precision="bf16"))


def test_an_onnxruntime_without_openvino_can_not_be_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wheels, "onnxruntime", lambda: SimpleNamespace(__file__=str(tmp_path / "x.py")))
    probe.openvino_capabilities.cache_clear()
    assert probe.openvino_capabilities() is None
    probe.openvino_capabilities.cache_clear()
