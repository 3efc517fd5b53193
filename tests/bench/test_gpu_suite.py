"""The GPU suite, dry-run on a CPU through the code that a GPU gets."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ocr_onnx import agreement, runtime
from ocr_onnx.errors import DeviceError, InputError, ModelContractError, OptionError
from ocr_onnx.options import DetOptions, RuntimeOptions
from ocr_onnx.recognize import RUN_WIDTH_PX
from ocr_onnx.runtime import Device
from ocr_onnx_bench import cases, gpu, gpu_device, gpu_networks, latency
from ocr_onnx_bench.cases import Case
from ocr_onnx_bench.gpu_device import Plan
from ocr_onnx_bench.gpu_record import Figure, GpuRecord, Outcome, Part, Ran, Series, read_parts, summary
from ocr_onnx_bench.record import write
from ocr_onnx_export.precision import to_half
from tests.conftest import Run

CPU = "CPUExecutionProvider"
QUICK = Plan("cpu", quick=True)
NO_GPU = pytest.mark.skipif(
    runtime.why_unusable(Device("cuda")) is None, reason="is about machines without a GPU"
)


def test_a_dry_run_takes_every_part_and_says_that_it_is_one(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    parts = ",".join(name for name in gpu.PARTS if name != "latency")  # in its own test
    outcome = run(
        "bench", "gpu", "--device", "cpu", "--quick", "--soak-pages", 2, "--parts", parts, "--out", out
    )
    assert outcome.code == 0
    assert outcome.out.startswith("device: cpu (DRY RUN: no GPU was measured)\n")
    found = json.loads(out.read_text())
    assert (found["kind"], found["device"], found["dry_run"], found["quick"]) == ("gpu", "cpu", True, True)
    assert [part["name"] for part in found["parts"]] == [name for name in gpu.PARTS if name != "latency"]
    for part in found["parts"]:
        assert (part["state"], part["error"]) == ("ok", "")
        assert part["outcome"]["figures"] or part["outcome"]["notes"][0].startswith("left out: no FP16 file")
        assert {one["provider"] for one in part["outcome"]["ran"]} <= {CPU}
    parity = found["parts"][0]["outcome"]
    assert [one["model"] for one in parity["ran"]][:2] == ["ppocrv4-mobile-det", "ppocrv4-mobile-rec"]
    assert all(dict(one["nodes"])[CPU] > 50 for one in parity["ran"])
    assert all(one["value"] == 0 for one in parity["figures"] if "largest difference" in one["name"])
    soak = {one["name"]: one["value"] for one in found["parts"][-1]["outcome"]["figures"]}
    assert all(soak[f"distinct shapes of {stage}"] >= 1 for stage in ("det", "rec"))
    assert str(tmp_path) not in out.read_text()


def test_the_latency_part_keeps_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tuple(
        Case(name, "cuda", "fp32", 1, shape=(1, 48, 160), reference="gpu_ms")
        for name in ("PP-OCRv4_mobile_rec", "Nobody_rec")
    )
    monkeypatch.setattr(cases, "read", lambda _file, profile: chosen if profile == "t4" else ())
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.0)
    found = gpu_networks.six_models(QUICK)
    assert found.problem == ""
    assert {one.name: one.unit for one in found.figures}["PP-OCRv4_mobile_rec 1x48x160 p99"] == "ms"
    assert not [one for one in found.figures if "published" in one.name]  # which is a GPU's
    assert [one.provider for one in found.ran] == [CPU]
    assert len(found.series[0].values) >= 10
    assert [note for note in found.notes if note.startswith("left out: Nobody_rec")]


@NO_GPU
def test_a_part_that_fails_tells_why_and_not_where() -> None:
    part = gpu.run_part("parity", Plan("cuda:0", quick=True))
    assert part.state == "failed"
    assert "CUDAExecutionProvider" in part.error or "driver" in part.error


def test_a_part_that_crashes_is_recorded_with_its_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    part = gpu.run_part("soak", Plan("cpu", soak_pages=0))
    assert (part.state, part.outcome) == ("failed", Outcome(()))
    assert part.error.startswith("its process ended with 1: IndexError")
    assert "Traceback" in capfd.readouterr().err


def test_a_part_that_hangs_is_ended() -> None:
    part = gpu.run_part("soak", QUICK, part_seconds=0.01)
    assert part.state == "failed"
    assert part.error.startswith("took more than 0.01 s")


@pytest.mark.parametrize(
    ("told", "last"),
    [
        ("", ""),
        ("first\nE: /home/somebody/a.b/model.onnx is bad\n\n", ": E: model.onnx is bad"),
        ("File '/x/y.py': C:\\Users\\me\\z.onnx and 1/2", ": File 'y.py': z.onnx and 1/2"),
    ],
)
def test_last_words_name_no_folder(told: str, last: str) -> None:
    assert gpu.last_words(told) == last


def test_what_is_no_number_fails_its_part_and_keeps_the_rest() -> None:
    outcome = Outcome(
        (Figure("a", 1.0), Figure("b", float("nan"))), (Series("c", "ms", (1.0, float("inf"))),)
    )
    kept, lost = gpu.recordable(outcome)
    assert (kept, lost) == (Outcome((Figure("a", 1.0),)), ("b", "c"))


def part_of(name: str, state: str = "ok") -> Part:
    return Part(name, "ok" if state == "ok" else "failed", 1.0, "" if state == "ok" else "why", Outcome(()))


def test_a_failed_part_loses_nothing_and_ends_with_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        gpu, "run_part", lambda name, *_: part_of(name, "failed" if name == "texts" else "ok")
    )
    out = tmp_path / "record.json"
    outcome = run("bench", "gpu", "--device", "cpu", "--parts", "texts, parity,soak", "--out", out)
    assert outcome.code == 1
    assert "failed: texts" in outcome.err
    states = {part["name"]: part["state"] for part in json.loads(out.read_text())["parts"]}
    assert states == {"parity": "ok", "texts": "failed", "soak": "ok"}
    asked: list[str] = []

    def again(name: str, *_: object) -> Part:
        asked.append(name)
        return part_of(name)

    monkeypatch.setattr(gpu, "run_part", again)
    outcome = run(
        "bench", "gpu", "--device", "cpu", "--parts", "parity,texts,stalls", "--out", out, "--resume"
    )
    assert (outcome.code, asked) == (0, ["texts", "stalls"])
    assert [part["name"] for part in json.loads(out.read_text())["parts"]] == [
        "parity",
        "texts",
        "stalls",
        "soak",
    ]


def test_only_the_same_run_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    assert read_parts(out, "cpu", quick=True) == ()
    gpu.measure(QUICK, (), out)
    assert read_parts(out, "cpu", quick=True) == ()
    for device, quick in (("cuda:0", True), ("cpu", False)):
        with pytest.raises(InputError, match="of another device"):
            read_parts(out, device, quick=quick)
    out.write_text("{}")
    with pytest.raises(InputError, match="no record of the GPU suite"):
        read_parts(out, "cpu", quick=True)


def test_a_record_reads_back_as_it_was(tmp_path: Path) -> None:
    outcome = Outcome(
        (Figure("a", 1.5, "ms"),),
        (Series("b", "ms", (1.0, 2.0)),),
        (Ran("m", CPU, ((CPU, 3),)),),
    )
    found = gpu.measure(QUICK, (), tmp_path / "r.json")
    whole = GpuRecord("gpu", "cpu", True, True, (Part("parity", "ok", 1.0, "", outcome),), found.environment)
    write(tmp_path / "r.json", whole)
    assert read_parts(tmp_path / "r.json", "cpu", quick=True) == whole.parts
    assert f"m: {CPU}; 3 operations on {CPU}" in summary(whole)


def test_an_unknown_part_is_refused() -> None:
    assert gpu.parse_parts("soak, parity") == ("parity", "soak")
    assert gpu.parse_parts("") == tuple(gpu.PARTS)
    with pytest.raises(OptionError, match="'speed' is no part"):
        gpu.parse_parts("speed")


@NO_GPU
def test_a_device_that_is_not_there_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    outcome = run("bench", "gpu", "--out", tmp_path / "r.json")
    assert outcome.code == 1
    assert "cuda" in outcome.err
    assert not (tmp_path / "r.json").exists()


class Off:
    """A model whose probabilities are all off by as much."""

    def __init__(self, model: Any, by: float) -> None:
        self._model, self._by = model, by

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def __call__(self, given: Any) -> list[Any]:
        answers = self._model(given)
        return [one + np.float32(self._by) if one.dtype == np.float32 else one for one in answers]


@pytest.mark.parametrize("by", [0.01, float("nan")])
def test_parity_sees_a_difference(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    opened = runtime.open_model
    calls: list[str] = []

    def spoilt(path: Path, stage: Any, options: RuntimeOptions) -> Any:
        calls.append(stage)
        model = opened(path, stage, options)
        if stage == "cls":
            raise ModelContractError(str(path), "failed on this shape", "give another")
        return Off(model, by) if len(calls) == 2 else model  # the first file's, in float32

    monkeypatch.setattr(gpu_networks, "open_model", spoilt)
    found = gpu_networks.parity(QUICK)
    assert found.problem.startswith("ppocrv4-mobile-det differs from the CPU by more than 0.001 in ")
    assert found.problem.endswith("; ppocr-mobile-v2-cls failed on this shape")
    assert "ppocrv4-mobile-rec" not in found.problem
    assert len(found.ran) == 2


class Driver:
    """CUDA's driver, which has 1000 MiB of which 300 are free, or fails at one call."""

    def __init__(self, fails: str = "") -> None:
        self._fails = fails
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = 300 * 2**20, 1000 * 2**20
            return 999 if name == self._fails else 0

        return call


def test_a_gpu_tells_its_memory_and_the_context_is_given_back() -> None:
    driver = Driver()
    assert gpu_device.gpu_used_mib(driver, 0) == 700
    assert driver.calls[-1] == "cuDevicePrimaryCtxRelease_v2"
    with pytest.raises(DeviceError, match="error 999"):
        gpu_device.gpu_used_mib(Driver("cuMemGetInfo_v2"), 0)


@pytest.mark.parametrize("small", [True, False])
def test_shapes_are_alike_for_a_seed_and_bounded_as_the_engine_does(small: bool) -> None:
    for stage in gpu_networks.VARYING:
        shapes = gpu_device.random_shapes(stage, 300, small=small)
        assert shapes == gpu_device.random_shapes(stage, 300, small=small)
        assert len(set(shapes)) > 20
        for batch, height, width in (gpu_device.as_engine(stage, shape) for shape in shapes):
            assert width % 32 == 0
            if stage == "det":
                assert height % 32 == 0
                assert height * width <= DetOptions().tile_pixels
            else:
                assert batch == 1 or batch * width <= RUN_WIDTH_PX


def test_the_suite_needs_neither_onnx_nor_the_other_packages_of_the_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('onnx', 'shapely', 'matplotlib'): sys.modules[name] = None\n"
        "from ocr_onnx_bench import gpu, models\n"
        "from ocr_onnx.options import ModelOptions\n"
        "from pathlib import Path\n"
        "try: models.obtain('ch_RepSVTR_rec', 'fp32', ModelOptions(), None, Path('.'))\n"
        "except models.ModelMissingError as error: print(error.problem)\n"
        "from ocr_onnx.cli import main\n"
        "main(['bench', 'gpu', '--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "is not on this machine" in done.stdout
    assert "--soak-pages" in done.stdout


def test_fp16_files_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gpu_device.mobile_file("det")
    path = tmp_path / "half.onnx"
    onnx.save(to_half(onnx.load(whole.path)), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = (
        '[[model]]\nname = "ppocrv4-mobile-det"\nstage = "det"\nlicense = "x"\norigin = "test"\n'
        f'precision = "fp16"\nfile = "half.onnx"\nsha256 = "{digest}"\n'
    )
    (tmp_path / "manifest.toml").write_text(manifest)
    plan = Plan("cpu", quick=True, model_dir=str(tmp_path))
    found = gpu_networks.half_precision(plan)
    [figure] = found.figures
    assert figure.name == "ppocrv4-mobile-det mask IoU at worst"
    assert 0.99 < figure.value < 1
    assert (found.problem, found.notes) == ("", ())
    monkeypatch.setattr(agreement, "MIN_MASK_IOU", 1.0)
    assert gpu_networks.half_precision(plan).problem.endswith("below 1.0")
