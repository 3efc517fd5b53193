"""One OCR engine in a process and an environment of its own: requests come in, answers go out.

Run as a file by the engine's own Python, which has no ocr_onnx: only the standard library and the
engine itself are imported. One JSON object per line on standard input, one on standard output:

    {"do": "load", "kind", "threads", "models": {stage: path}, "settings": {name: text}}
        -> {"load_s", "versions": {package: version}}
    {"do": "read", "image": path}
        -> {"seconds", "cpu_seconds", "network_seconds" or null, "lines": [{"quad", "text", "score"}]}
    {"do": "stream", "images": [path], "workers"}
        -> {"cpu_seconds", "texts": [[text]]}
    {"do": "end"}
        -> {"peak_rss_mib", "facts": {name: text}}

What the engine itself prints goes to standard error. An engine that fails ends the process, with
its traceback there.
"""

import dataclasses
import importlib
import importlib.metadata
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

Line: TypeAlias = tuple[Any, str, float]
"""Four (x, y) corners in page pixels, the text, its score."""

Span: TypeAlias = tuple[float, float]
"""Start and end in seconds."""

PACKAGES = (
    "ocr-onnx",
    "rapidocr-onnxruntime",
    "rapidocr",
    "paddleocr",
    "paddlex",
    "paddlepaddle",
    "onnxtr",
    "onnxruntime",
    "onnxruntime-openvino",
    "openvino",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
)


class Request(NamedTuple):
    """What to load: `models` maps "det" and "rec" to files, or folders for PaddleOCR."""

    threads: int
    models: dict[str, str]
    settings: dict[str, str]


class Loaded(NamedTuple):
    """A ready engine. `read` takes a picture's path; `facts` tells how it is really set, once it has read.

    `stream` takes the paths of pages and how many to read at a time, and gives their texts in order;
    None where the engine has nothing of the kind. `network_runs` gathers the runs of its networks, by
    whichever thread; None where that is not looked at.
    """

    read: Callable[[str], Iterator[Line]]
    facts: Callable[[], dict[str, str]]
    stream: Callable[[list[str], int], Iterator[list[str]]] | None = None
    network_runs: list[Span] | None = None


def load_ocr_onnx(request: Request) -> Loaded:
    """Load this project's engine with its own files and defaults, but for the options given."""
    assignments = request.settings["options"].split("@") if "options" in request.settings else ()
    engine = importlib.import_module("ocr_onnx").Engine.load(
        "mobile",
        device=request.settings["device"],
        threads=request.threads,
        options=importlib.import_module("ocr_onnx.config").load(assignments=assignments).options,
    )

    network_runs: list[Span] = []
    watched = _watched(engine, network_runs)

    def read(image: str) -> Iterator[Line]:
        return ((line.quad_px, line.text, line.rec_score) for line in watched.read(image).lines)

    def stream(images: list[str], workers: int) -> Iterator[list[str]]:
        return ([line.text for line in page.lines] for page in engine.stream(images, workers=workers))

    return Loaded(read, lambda: {"provider": engine.provenance.provider}, stream, network_runs)


def _watched(engine: Any, runs: list[Span]) -> Any:
    """Return our engine with networks that note when they ran."""

    def noted(infer: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            found = infer(*arguments)
            runs.append((start, time.perf_counter()))
            return found

        return call

    lanes = engine.rec_lanes
    return dataclasses.replace(
        engine,
        det=noted(engine.det),
        rec=noted(engine.rec),
        cls=engine.cls and noted(engine.cls),
        rec_lanes=lanes and dataclasses.replace(lanes, infer=noted(lanes.infer)),
    )


def load_rapidocr_1(request: Request) -> Loaded:
    """Load rapidocr_onnxruntime 1.x with its defaults, without the classifier."""
    engine = importlib.import_module("rapidocr_onnxruntime").RapidOCR(
        use_cls=False,
        intra_op_num_threads=request.threads,
        det_model_path=request.models["det"],
        rec_model_path=request.models["rec"],
    )

    def read(image: str) -> Iterator[Line]:
        lines, _ = engine(image)
        return ((quad, text, score) for quad, text, score in lines or ())

    return Loaded(read, lambda: _onnxruntime_facts(engine.text_det.infer.session))


def load_rapidocr_3(request: Request) -> Loaded:
    """Load rapidocr 3.x on ONNX Runtime or OpenVINO with its defaults, without the classifier."""
    name = request.settings["engine"]
    if name == "openvino" and "precision" in request.settings:
        _force_openvino_precision(request.settings["precision"])
    engine_type = importlib.import_module("rapidocr").EngineType(name)
    engine = importlib.import_module("rapidocr").RapidOCR(
        params={
            "Global.use_cls": False,
            "Global.log_level": "warning",
            "Det.engine_type": engine_type,
            "Rec.engine_type": engine_type,
            "Det.model_path": request.models["det"],
            "Rec.model_path": request.models["rec"],
            "EngineConfig.onnxruntime.intra_op_num_threads": request.threads,
            "EngineConfig.openvino.inference_num_threads": request.threads,
        }
    )

    def read(image: str) -> Iterator[Line]:
        found = engine(image)
        if found.boxes is None or found.txts is None:
            return iter(())
        return zip(found.boxes, found.txts, found.scores, strict=True)

    def facts() -> dict[str, str]:
        session = engine.text_det.session.session
        return _onnxruntime_facts(session) if name == "onnxruntime" else _openvino_facts(session)

    return Loaded(read, facts)


def _onnxruntime_facts(session: Any) -> dict[str, str]:
    threads = session.get_session_options().intra_op_num_threads
    return {"provider": session.get_providers()[0], "threads": str(threads)}


def _openvino_facts(request: Any) -> dict[str, str]:
    model = request.get_compiled_model()
    precision = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return {
        "provider": "OpenVINO",
        "threads": str(model.get_property("INFERENCE_NUM_THREADS")),
        "precision": precision,
    }


def _force_openvino_precision(precision: str) -> None:
    """Make RapidOCR's OpenVINO sessions compute in `precision`, for which it has no option."""
    main = importlib.import_module("rapidocr.inference_engine.openvino.main")
    shipped = main.CPUConfig.get_config
    main.CPUConfig.get_config = lambda self: {**shipped(self), "INFERENCE_PRECISION_HINT": precision}


def load_paddleocr(request: Request) -> Loaded:
    """Load PaddleOCR 3.x on a CPU with its defaults, without the classifiers and the unwarping.

    Without model folders it fetches the official ones by itself.
    """
    if request.models:
        os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"  # nothing is to be fetched
    engine = importlib.import_module("paddleocr").PaddleOCR(
        text_detection_model_name="PP-OCRv4_mobile_det",
        text_detection_model_dir=request.models.get("det"),
        text_recognition_model_name="PP-OCRv4_mobile_rec",
        text_recognition_model_dir=request.models.get("rec"),
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
        device="cpu",
        cpu_threads=request.threads,
    )

    def read(image: str) -> Iterator[Line]:
        (page,) = engine.predict(image)
        return zip(page["rec_polys"], page["rec_texts"], page["rec_scores"], strict=True)

    return Loaded(read, dict)


def load_onnxtr(request: Request) -> Loaded:
    """Load OnnxTR with its defaults; it fetches its own weights."""
    models = importlib.import_module("onnxtr.models")
    config = importlib.import_module("onnxtr.models.engine").EngineConfig
    options = importlib.import_module("onnxruntime").SessionOptions()
    options.intra_op_num_threads = request.threads
    predictor = models.ocr_predictor(
        det_engine_cfg=config(session_options=options), reco_engine_cfg=config(session_options=options)
    )
    from_images = importlib.import_module("onnxtr.io").DocumentFile.from_images

    def read(image: str) -> Iterator[Line]:
        (page,) = predictor(from_images(image)).pages
        return (_onnxtr_line(line, page.dimensions) for block in page.blocks for line in block.lines)

    return Loaded(read, dict)


def _onnxtr_line(line: Any, dimensions: tuple[int, int]) -> Line:
    """Return a line of words, whose corners are shares of the page's (height, width)."""
    height_px, width_px = dimensions
    (left, top), (right, bottom) = line.geometry
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    score = sum(word.confidence for word in line.words) / len(line.words)
    text = " ".join(word.value for word in line.words)
    return [(x * width_px, y * height_px) for x, y in corners], text, score


LOADERS = {
    "ocr_onnx": load_ocr_onnx,
    "rapidocr_1": load_rapidocr_1,
    "rapidocr_3": load_rapidocr_3,
    "paddleocr": load_paddleocr,
    "onnxtr": load_onnxtr,
}


def load(wanted: dict[str, Any]) -> tuple[Loaded, dict[str, Any]]:
    """Load the engine, and give OpenCV the same number of threads as its networks have."""
    start = time.perf_counter()
    request = Request(wanted["threads"], wanted["models"], wanted["settings"])
    loaded = LOADERS[wanted["kind"]](request)
    importlib.import_module("cv2").setNumThreads(request.threads)
    return loaded, {"load_s": time.perf_counter() - start, "versions": versions()}


def versions() -> dict[str, str]:
    """Return what is installed of PACKAGES."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read(loaded: Loaded, image: str) -> dict[str, Any]:
    """Read a page from its file to its lines, and time just that."""
    runs = loaded.network_runs
    if runs is not None:
        runs.clear()
    cpu, wall = cpu_seconds(), time.perf_counter()
    lines = list(loaded.read(image))
    seconds = time.perf_counter() - wall
    used = cpu_seconds() - cpu
    plain = [
        {"quad": [[float(x), float(y)] for x, y in quad], "text": str(text), "score": float(score)}
        for quad, text, score in lines
    ]
    network = None if runs is None else covered_s(runs)
    return {"seconds": seconds, "cpu_seconds": used, "network_seconds": network, "lines": plain}


def stream(loaded: Loaded, images: list[str], workers: int) -> dict[str, Any]:
    """Read many pages, `workers` at a time; whoever asks takes the time."""
    if loaded.stream is None:
        sys.exit("this engine has no stream")
    cpu = cpu_seconds()
    texts = list(loaded.stream(images, workers))
    return {"cpu_seconds": cpu_seconds() - cpu, "texts": texts}


def covered_s(spans: list[Span]) -> float:
    """Return how long at least one of `spans` (start, end) lasted: runs side by side count once."""
    covered, latest = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, latest))
        latest = max(latest, end)
    return covered


def cpu_seconds() -> float:
    """Return the processor time of all threads of this process and of its children that have ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_rss_mib() -> float:
    """Return the most memory this process ever held (VmHWM).

    Not `ru_maxrss`: Linux lets a process start with that of the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Answer requests until "end" or the end of the input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # an engine's prints, in C as well, must not end up among the answers
    loaded: Loaded | None = None
    for line in sys.stdin:
        wanted = json.loads(line)
        if wanted["do"] == "load":
            loaded, answer = load(wanted)
        elif loaded is None:
            sys.exit("nothing was loaded")
        elif wanted["do"] == "read":
            answer = read(loaded, wanted["image"])
        elif wanted["do"] == "stream":
            answer = stream(loaded, wanted["images"], wanted["workers"])
        else:
            answer = {"peak_rss_mib": peak_rss_mib(), "facts": loaded.facts()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if wanted["do"] == "end":
            return


if __name__ == "__main__":
    main()
