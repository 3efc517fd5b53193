"""Parts of the GPU suite that run single networks: each takes a plan and returns what it found."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ocr_onnx import agreement, contract, model_store, recognize
from ocr_onnx.errors import OcrError
from ocr_onnx.manifest import Stage
from ocr_onnx.model_store import ModelFile
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.runtime import PROVIDERS, Array, Model, node_placement, open_model
from ocr_onnx_bench import cases, latency, models
from ocr_onnx_bench.gpu_device import (
    GPUS,
    Plan,
    Shape,
    as_engine,
    bare_session,
    drawn,
    feeds,
    inputs_of,
    inputs_of_bare,
    memory_mib,
    mobile_file,
    random_shapes,
    without_tf32,
)
from ocr_onnx_bench.gpu_record import Figure, Outcome, Ran, Series
from ocr_onnx_bench.rewrites import alternate

PARITY_TOLERANCE = 1e-3  # probabilities; sums are taken in another order on a GPU
PARITY_SHAPES: Mapping[Stage, tuple[Shape, ...]] = {
    "det": ((1, 640, 640), (1, 736, 1280), (1, 1216, 832)),
    "rec": ((6, 48, 320), (1, 48, 1600), (16, 48, 160)),
    "cls": ((6, 48, 192),),
}
QUICK_SHAPES: Mapping[Stage, tuple[Shape, ...]] = {
    "det": ((1, 320, 320),),
    "rec": ((2, 48, 320),),
    "cls": ((2, 48, 192),),
}
LATENCY_PROFILE = "t4"  # the six models at the sizes of the published figures
MEMORY_EVERY = 10
VARYING: tuple[Stage, ...] = ("det", "rec")  # whose shapes differ from page to page


def parity(plan: Plan) -> Outcome:
    """Compare every output of every model at hand with the CPU's: in whole float32, then as the engine runs.

    The bar is for float32: 1e-3 in every probability. What TF32 changes is told only.
    """
    figures: list[Figure] = []
    ran: list[Ran] = []
    problems: list[str] = []
    for file in _models_at_hand(plan, ("", "fp32")):
        try:
            found = _parity(file, plan)
        except OcrError as error:
            problems.append(f"{file.spec.name} {error.problem}")
            continue
        figures += found.figures
        ran += found.ran
        problems += [found.problem] if found.problem else []
    return Outcome(tuple(figures), ran=tuple(ran), problem="; ".join(problems))


def half_precision(plan: Plan) -> Outcome:
    """Compare every FP16 file at hand with float32, by the bars that its use on a GPU asks for."""
    asked = RuntimeOptions(device=plan.device, precision="fp16" if plan.at.kind in GPUS else "fp32")
    models = ModelOptions(folder=plan.model_dir)
    figures: list[Figure] = []
    problems: list[str] = []
    for file in _models_at_hand(plan, ("fp16",)):
        name = file.spec.name
        try:
            found = agreement.compare(file.spec.stage, agreement.reference_of(file, models), file, asked)
        except OcrError as error:
            problems.append(f"{name} {error.problem}")
            continue
        figures += [Figure(f"{name} {one.measure}", one.value, "share") for one in found]
        problems += [f"{name} {one.measure} below {one.bar}" for one in found if not one.passed]
    none = "left out: no FP16 file here; make them with `ocr-onnx export --precision fp16`, name --model-dir"
    return Outcome(tuple(figures), notes=() if figures or problems else (none,), problem="; ".join(problems))


def memory_bounded(plan: Plan) -> Outcome:
    """Run random shapes as the engine does: its settings, its bounds on tiles and runs."""
    opened = {stage: _mobile_model(stage, plan) for stage in VARYING}
    callers = {stage: _caller(model, stage) for stage, model in opened.items()}
    ran = tuple(Ran(f"mobile {stage}", model.provider) for stage, model in opened.items())
    return _memory(plan, ran, lambda stage, shape: callers[stage](drawn(stage, as_engine(stage, shape))))


def memory_unbounded(plan: Plan) -> Outcome:
    """Run the same random shapes as ONNX Runtime's defaults would, whole and whatever their size.

    Only the search for convolutions is the engine's: the default one would take hours.
    """
    opened = {
        stage: bare_session(
            mobile_file(stage).path, plan.at, {"cudnn_conv_algo_search": "HEURISTIC"}, defaults=True
        )
        for stage in VARYING
    }

    def run(stage: Stage, shape: Shape) -> None:
        session = opened[stage]
        session.run(None, feeds(inputs_of_bare(session), stage, shape))

    ran = tuple(Ran(f"mobile {stage}", session.get_providers()[0]) for stage, session in opened.items())
    return _memory(plan, ran, run)


def stalls(plan: Plan) -> Outcome:
    """Time the first and the second run of shapes that the engine has not seen."""
    figures: list[Figure] = []
    series: list[Series] = []
    ran: list[Ran] = []
    for stage in VARYING:
        model = _mobile_model(stage, plan)
        ran.append(Ran(f"mobile {stage}", model.provider))
        call = _caller(model, stage)
        images = [drawn(stage, shape) for shape in _new_shapes(stage, plan)]
        pairs = [(_ms(call, one), _ms(call, one)) for one in images]
        for label, times in zip(("first", "second"), zip(*pairs, strict=True), strict=True):
            figures += _spread(f"{stage} {label} run", times)
            series.append(Series(f"{stage} {label} run", "ms", times))
    return Outcome(tuple(figures), tuple(series), tuple(ran))


def search(plan: Plan) -> Outcome:
    """Compare cuDNN's HEURISTIC search with EXHAUSTIVE: first runs of new shapes, and runs after it."""
    figures: list[Figure] = []
    series: list[Series] = []
    for stage in VARYING:
        for kind in ("HEURISTIC", "EXHAUSTIVE"):
            session = bare_session(mobile_file(stage).path, plan.at, {"cudnn_conv_algo_search": kind})
            inputs = inputs_of_bare(session)
            given = [feeds(inputs, stage, shape) for shape in _new_shapes(stage, plan)]

            def run(one: dict[str, Array], session: object = session) -> object:
                return session.run(None, one)  # type: ignore[attr-defined]

            first = tuple(_ms(run, one) for one in given)
            after = tuple(_ms(run, one) for one in given)
            figures += [
                *_spread(f"{stage} {kind} first run", first),
                *_spread(f"{stage} {kind} after", after),
            ]
            figures.append(Figure(f"{stage} {kind} all first runs", sum(first), "ms"))
            series += [
                Series(f"{stage} {kind} first run", "ms", first),
                Series(f"{stage} {kind} after", "ms", after),
            ]
    dry = () if plan.at.kind in GPUS else ("cpu has no such search: the same setting twice",)
    return Outcome(tuple(figures), tuple(series), notes=dry)


def reduced(plan: Plan) -> Outcome:
    """Compare the best class of each step, found on the device, with all probabilities fetched for it."""
    model = _mobile_model("rec", plan)
    figures: list[Figure] = []
    series: list[Series] = []
    for shape in (
        ((2, 48, 160),) if plan.quick else ((1, 48, 320), (6, 48, 320), (32, 48, 320), (8, 48, 1600))
    ):
        given = feeds(inputs_of(model.inputs), "rec", shape)
        size = "x".join(map(str, shape))

        def short(given: dict[str, Array] = given) -> list[Array]:
            return model(given, contract.STEPS)

        def whole(given: dict[str, Array] = given) -> list[Array]:
            probs = model(given, (contract.PROBABILITIES,))
            recognize.reduce_probabilities(probs[0])
            return probs

        times = alternate(short, whole, plan.size(30, 2))
        for place, (label, call) in enumerate((("reduced", short), ("full", whole))):
            samples = tuple(pair[place] for pair in times)
            fetched = sum(array.nbytes for array in call())
            figures.append(Figure(f"{size} {label}", statistics.median(samples), "ms"))
            figures.append(Figure(f"{size} {label} fetched", fetched, "bytes"))
            series.append(Series(f"{size} {label}", "ms", samples))
    return Outcome(tuple(figures), tuple(series), (Ran("mobile rec", model.provider),))


def six_models(plan: Plan) -> Outcome:
    """Time the six models at the sizes of the published figures, each in a process of its own."""
    chosen = [
        replace(case, device=plan.device, reference=case.reference if plan.at.kind == "cuda" else None)
        for case in cases.read(cases.default_file(), LATENCY_PROFILE)
    ]
    effort = latency.Effort(10, 0.0) if plan.quick else latency.Effort()
    found = latency.make_record(
        LATENCY_PROFILE,
        chosen,
        options=ModelOptions(folder=plan.model_dir),
        graphs=models.graphs_folder(None),
        effort=effort,
    )
    figures: list[Figure] = []
    for one in found.cases:
        name = f"{one.case.model} {'x'.join(map(str, one.case.shape or ()))}"
        for part in ("p50_ms", "p90_ms", "p99_ms", "first_ms", "load_ms", "published_ms"):
            value = getattr(one, part)
            figures += [] if value is None else [Figure(f"{name} {part.removesuffix('_ms')}", value, "ms")]
        figures += [] if one.gpu_mib is None else [Figure(f"{name} on the GPU", one.gpu_mib, "MiB")]
    return Outcome(
        tuple(figures),
        tuple(Series(str(one.case), "ms", one.samples_ms) for one in found.cases),
        tuple(Ran(one.models[0], one.provider, one.nodes) for one in found.cases),
        (*found.notes, *(f"left out: {reason}" for reason in found.left_out)),
        "" if found.cases else "no model could be timed",
    )


def _memory(plan: Plan, ran: tuple[Ran, ...], run: Callable[[Stage, Shape], object]) -> Outcome:
    """Call `run` on random shapes of both stages in turn, and look at the memory on the way."""
    count, device = plan.size(300, 6), plan.at
    shapes = {stage: random_shapes(stage, count, small=plan.quick, seed=plan.seed) for stage in VARYING}
    loaded = memory_mib(device)
    samples = []
    for number, (det, rec) in enumerate(zip(shapes["det"], shapes["rec"], strict=True), start=1):
        run("det", det)
        run("rec", rec)
        if number % MEMORY_EVERY == 0 or number == count:
            samples.append(memory_mib(device))
    return Outcome(
        (
            Figure("shapes", 2 * count),
            Figure("loaded", loaded, "MiB"),
            Figure("first sample", samples[0], "MiB"),
            Figure("end", samples[-1], "MiB"),
            Figure("most", max(samples), "MiB"),
        ),
        (Series("in use", "MiB", tuple(samples)),),
        ran,
    )


def _parity(file: ModelFile, plan: Plan) -> Outcome:
    stage, name = file.spec.stage, file.spec.name
    on_cpu = open_model(file.path, stage, RuntimeOptions())
    exact = open_model(file.path, stage, without_tf32(plan.device))
    usual = open_model(file.path, stage, RuntimeOptions(device=plan.device))
    shapes = (QUICK_SHAPES if plan.quick else PARITY_SHAPES)[stage]
    worst = _differences(on_cpu, exact, stage, shapes)
    figures = []
    for label, found in (("fp32", worst), ("default", _differences(on_cpu, usual, stage, shapes))):
        for output, (off, equal) in found.items():
            figures.append(Figure(f"{name} {label} {output} largest difference", off))
            figures.append(Figure(f"{name} {label} {output} equal values", equal, "share"))
    given = feeds(inputs_of(usual.inputs), stage, shapes[0])
    nodes = node_placement(file.path, RuntimeOptions(device=plan.device), given)
    provider = PROVIDERS[plan.at.kind]
    # written so that NaN is beyond the bar
    beyond = [output for output, (off, _) in worst.items() if not off <= PARITY_TOLERANCE]
    problem = ""
    if beyond:
        problem = f"{name} differs from the CPU by more than {PARITY_TOLERANCE} in {', '.join(beyond)}"
    elif not nodes.get(provider):
        problem = f"{name} ran nothing on {provider}"
    ran = Ran(name, usual.provider, tuple(sorted(nodes.items())))
    return Outcome(tuple(figures), ran=(ran,), problem=problem)


def _models_at_hand(plan: Plan, precisions: tuple[str, ...]) -> Iterator[ModelFile]:
    """Yield every model of these precisions on this machine; for a quick run of float32 the embedded ones."""
    for status in model_store.verify(ModelOptions(folder=plan.model_dir)):
        spec, wanted = status.spec, not plan.quick or "fp16" in precisions or status.place == "embedded"
        if status.state == "ok" and status.path and spec.precision in precisions and wanted:
            yield ModelFile(status.path, spec, spec.sha256 or "")


def _mobile_model(stage: Stage, plan: Plan) -> Model:
    return open_model(mobile_file(stage).path, stage, RuntimeOptions(device=plan.device))


def _caller(model: Model, stage: Stage) -> Callable[[NDArray[np.uint8]], object]:
    """Return the engine's own call of a model, on pictures (N, h, w, 3)."""
    if stage == "det":
        return contract.det_infer(model, stage)
    rec = contract.rec_infer(model, stage, contract.check_rec(model, stage) or 0)
    return lambda images: rec(images, np.full(len(images), images.shape[2], np.int32))


def _differences(
    first: Model, second: Model, stage: Stage, shapes: Sequence[Shape]
) -> dict[str, tuple[float, float]]:
    """Return for each output the largest difference over all shapes, and the least share of equal values."""
    names = [output.name for output in first.outputs]
    found: dict[str, tuple[float, float]] = dict.fromkeys(names, (0.0, 1.0))
    for shape in shapes:
        given = feeds(inputs_of(first.inputs), stage, shape)
        for name, one, other in zip(names, first(given), second(given), strict=True):
            off, equal = found[name]
            if np.issubdtype(one.dtype, np.floating):
                # np.maximum, unlike max, hands a NaN on
                off = float(np.maximum(off, np.abs(one.astype(np.float64) - other).max(initial=0.0)))
            found[name] = off, min(equal, float(np.mean(one == other)))
    return found


def _new_shapes(stage: Stage, plan: Plan) -> tuple[Shape, ...]:
    shapes = random_shapes(stage, plan.size(60, 4), small=plan.quick, seed=plan.seed)
    return tuple(as_engine(stage, shape) for shape in shapes)


def _spread(name: str, times: Sequence[float]) -> list[Figure]:
    return [
        Figure(f"{name} median", statistics.median(times), "ms"),
        Figure(f"{name} p99", latency.percentile(times, 0.99), "ms"),
        Figure(f"{name} longest", max(times), "ms"),
    ]


def _ms(call: Callable[..., object], given: object) -> float:
    start = time.perf_counter()
    call(given)
    return 1000 * (time.perf_counter() - start)
