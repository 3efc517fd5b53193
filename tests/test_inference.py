"""How an engine lays out its networks on one processor, one GPU and several; the GPUs are pretended."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ocr_onnx import inference
from ocr_onnx.data import F32Array, ImageBgr, PageResult
from ocr_onnx.engine import Engine
from ocr_onnx.errors import ModelContractError, OptionError
from ocr_onnx.gather import Gathered
from ocr_onnx.manifest import Stage
from ocr_onnx.options import ClsOptions, DetOptions, Options, RecOptions
from ocr_onnx.recognize import CtcSteps
from ocr_onnx.runtime import Array, Replicas, Session
from ocr_onnx.runtime.buckets import Shape, warm_up_shapes

DEMO = Path(__file__).parent / "data" / "boarding-pass.png"
TURNING = Options(det=DetOptions(limit_type="max", limit_side_px=480), cls=ClsOptions(enabled=True))


@pytest.fixture(scope="module")
def page() -> ImageBgr:
    """The top of the boarding pass."""
    with Image.open(DEMO) as image:
        return np.asarray(image.convert("RGB"))[: image.height // 4, :, ::-1].copy()


@pytest.fixture(scope="module")
def expected(page: ImageBgr) -> PageResult:
    return Engine.load("mobile", threads=1, options=TURNING).read(page)


def _elsewhere(result: PageResult, device: str) -> PageResult:
    assert result.provenance is not None
    provenance = replace(result.provenance, device=device, provider="CUDAExecutionProvider")
    return replace(result, provenance=provenance)


@pytest.mark.parametrize(("device", "gpus"), [("cuda:0", [0]), ("cuda:2,0,1", [2, 0, 1])])
def test_gpus_share_the_lines_of_all_pages_and_read_what_the_processor_reads(
    pretended_gpus: list[int], page: ImageBgr, expected: PageResult, device: str, gpus: list[int]
) -> None:
    engine = Engine.load("mobile", device=device, options=TURNING)
    assert pretended_gpus == gpus * 3
    assert engine.pages_at_once == 4 * len(gpus)
    assert isinstance(engine.rec, Gathered)
    assert isinstance(engine.cls, Gathered)
    assert engine.rec_lanes is not None
    assert engine.rec_lanes.infer is engine.rec
    wanted = _elsewhere(expected, device)
    assert len(wanted.lines) > 4
    assert engine.read(page) == wanted
    assert list(engine.stream([page] * 4)) == [wanted] * 4
    small = replace(TURNING, rec=RecOptions(batch_size=1))
    assert list(engine.stream([page] * 2, workers=2, options=small)) == [wanted] * 2


def test_a_gpu_that_breaks_down_costs_no_page(
    pretended_gpus: list[int],
    page: ImageBgr,
    expected: PageResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Engine.load("mobile", device="cuda:0,1", options=TURNING)
    assert set(pretended_gpus) == {0, 1}
    run = Session.__call__

    def broken(
        session: Session, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> list[Array]:
        if session.device.index == 1:
            raise ModelContractError(str(session.path), "failed: the GPU is lost", "restart")
        return run(session, feeds, outputs)

    monkeypatch.setattr(Session, "__call__", broken)
    wanted = _elsewhere(expected, "cuda:0,1")
    assert list(engine.stream([page] * 3, workers=3)) == [wanted] * 3
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3  # one for each network
    assert all("cuda:1 is out of service" in warning for warning in warnings)


def test_an_engine_on_gpus_survives_pickling(
    pretended_gpus: list[int], page: ImageBgr, expected: PageResult
) -> None:
    engine = pickle.loads(pickle.dumps(Engine.load("mobile", device="cuda:0,1", options=TURNING)))
    assert engine.read(page) == _elsewhere(expected, "cuda:0,1")
    assert set(pretended_gpus) == {0, 1}


def test_a_processor_shares_no_runs() -> None:
    engine = Engine.load("mobile", threads=2)
    assert not isinstance(engine.rec, Gathered)
    assert engine.share is not None


def test_a_list_of_devices_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match="names a GPU twice"):
        Engine.load("mobile", device="cuda:0,0")


def _count(calls: list[tuple[int, ...]]) -> Callable[[NDArray[np.uint8], NDArray[np.int32]], CtcSteps]:
    def rec(images: NDArray[np.uint8], content_px: NDArray[np.int32]) -> CtcSteps:
        calls.append(images.shape)
        labels = np.repeat(content_px[:, None], 4, axis=1).astype(np.int64)
        return CtcSteps(labels, labels.astype(np.float32))

    return rec


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (2, 2), (3, 4), (5, 8), (17, 32), (32, 32), (40, 40)])
def test_batches_on_a_gpu_are_filled_up_to_few_sizes(rows: int, batch: int) -> None:
    runs: list[tuple[int, ...]] = []
    widths = np.arange(1, rows + 1, dtype=np.int32)
    found = inference._filled(_count(runs), inference._steps_of, np.ones((rows, 48, 32, 3), np.uint8), widths)
    assert runs == [(batch, 48, 32, 3)]
    assert found.labels[:, 0].tolist() == widths.tolist()
    assert len(found.probs) == rows


def test_lines_that_share_a_run_get_their_own_steps() -> None:
    runs: list[tuple[int, ...]] = []
    gathered = Gathered(_count(runs), inference._steps_of)
    images = np.zeros((2, 48, 320, 3), np.uint8)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda first: gathered(images, np.array([first, first + 1], np.int32)), range(50))
        )
    assert [steps.labels[:, 0].tolist() for steps in found] == [[first, first + 1] for first in range(50)]
    assert [steps.probs[:, 3].tolist() for steps in found] == [[first, first + 1] for first in range(50)]
    assert sum(shape[0] for shape in runs) == 100


@pytest.mark.parametrize(
    ("options", "stages"), [(Options(), ("det", "rec")), (TURNING, ("det", "rec", "cls"))]
)
def test_a_warm_up_runs_every_shape_on_every_gpu(
    pretended_gpus: list[int],
    page: ImageBgr,
    monkeypatch: pytest.MonkeyPatch,
    options: Options,
    stages: tuple[Stage, ...],
) -> None:
    shapes = {
        "det": (Shape(1, 32, 64), Shape(1, 64, 64)),
        "rec": (Shape(1, 48, 32), Shape(2, 48, 32)),
        "cls": (Shape(3, 48, 192),),
    }
    monkeypatch.setattr(inference, "warm_up_shapes", shapes.get)
    engine = Engine.load("mobile", device="cuda:0,1", options=options)
    assert engine.shapes_seen() == dict.fromkeys(stages, 0)
    done = engine.warm_up()
    assert done.runs == 2 * sum(len(shapes[stage]) for stage in stages)
    assert done.seconds > 0
    assert engine.shapes_seen() == {stage: len(shapes[stage]) for stage in stages}
    assert engine.models is not None
    for model in engine.models:
        assert model is None or isinstance(model, Replicas)
        for replica in model.replicas if model else ():
            assert model is not None
            assert replica.shapes_seen() == model.shapes_seen()
    assert pretended_gpus == [0, 1] * len(stages)
    engine.read(page)
    assert engine.shapes_seen()["det"] == 3


def test_the_shapes_of_a_warm_up_fit_the_stages() -> None:
    for stage, height in (("rec", 48), ("cls", 48)):
        assert all(h == height for _, h, _ in warm_up_shapes(stage))  # type: ignore[arg-type]
    assert all(h % 32 == w % 32 == 0 for _, h, w in warm_up_shapes("det"))


def test_an_engine_of_other_callables_has_nothing_to_warm_up() -> None:
    def det(images: NDArray[np.uint8]) -> F32Array:
        return np.zeros(images.shape[:3], np.float32)

    engine = Engine(det, _count([]), ("", "a", " "))
    assert engine.warm_up().runs == 0
    assert engine.shapes_seen() == {}
