"""The whole product on one screen: whatever a caller has in, `PageResult`s out."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Self

from ocr_onnx import classify, contract, crop, detect, inputs, model_store, order, recognize
from ocr_onnx.data import Angle, Detections, ImageBgr, Page, PageResult, Provenance, TextLine
from ocr_onnx.detect import DetInput
from ocr_onnx.errors import InputError, ModelContractError, OcrError, OptionError
from ocr_onnx.inputs import Readable
from ocr_onnx.options import ModelOptions, Options, RuntimeOptions
from ocr_onnx.recognize import RecognizedLine
from ocr_onnx.runtime import Device, Session
from ocr_onnx.threads import usable_threads

PAGES_AHEAD = 1  # decoded and waiting, or read and not yet asked for, beside one per worker
MAX_LANES = 8  # every lane holds a run's memory, and a page has few runs to share out
COARSE_SCALE = 0.25  # below it, text of ordinary size is too small for the detector


@dataclass(frozen=True, slots=True)
class Engine:
    """The networks as callables, and the options that calls start from.

    Keeps no state between calls: any number of threads may share one engine. `charset` maps class
    to character. `rec_lanes` reads the lines of one page side by side where `rec` would read them
    one run after the other. `provenance` is stamped on every result.
    """

    det: detect.Infer
    rec: recognize.Infer
    charset: tuple[str, ...]
    cls: classify.Infer | None = None
    rec_lanes: recognize.Lanes | None = None
    options: Options = Options()
    provenance: Provenance | None = None

    @classmethod
    def load(
        cls,
        models: str | ModelOptions = "mobile",
        *,
        device: str = "cpu",
        threads: int = 0,
        options: Options = Options(),
        progress: model_store.Progress | None = None,
    ) -> Self:
        """Find, verify and open the models: the only step that touches disk or network.

        `models` is the name of a model set ("mobile", "server", "svtrv2", "repsvtr") or, for own
        files and folders, `ModelOptions`. `device` and `threads` are those of `RuntimeOptions`.
        `progress` hears of downloads.

        Raises OptionError (an option, or a device that is none), ModelError, DownloadError,
        DeviceError (a device that can't be used here) and DependencyError (no ONNX Runtime, or two).
        """
        wanted = models if isinstance(models, ModelOptions) else ModelOptions(name=models)
        runtime = RuntimeOptions(device=device, threads=threads)
        if wanted.cls and not options.cls.enabled:
            raise OptionError("models.cls", "was given, but cls.enabled is off", "set both, or neither")
        files = model_store.resolve(wanted, progress)
        det, rec = Session(files.det.path, runtime), Session(files.rec.path, runtime)
        contract.check_rec(rec, str(files.rec.path))
        charset = _charset(files, rec)
        used = [("det", files.det), ("rec", files.rec)]
        cls_infer = None
        if options.cls.enabled:
            cls_infer = contract.cls_infer(Session(files.cls.path, runtime), str(files.cls.path))
            used.append(("cls", files.cls))
        return cls(
            det=contract.det_infer(det, str(files.det.path)),
            rec=contract.rec_infer(rec, str(files.rec.path), len(charset)),
            charset=charset,
            cls=cls_infer,
            rec_lanes=_rec_lanes(files.rec.path, rec.device, runtime, len(charset)),
            options=options,
            provenance=Provenance(
                models=tuple((stage, f"{file.spec.name}@{file.sha256}") for stage, file in used),
                device=str(det.device),
                provider=det.provider,
                det_scale_xy=(1.0, 1.0),
                version=version("ocr-onnx"),
            ),
        )

    def read(self, source: Readable, options: Options | None = None) -> PageResult:
        """Read exactly one page; lines come in reading order.

        Raises InputError for what can't be read, holds no page, or holds several; OptionError for
        options that this engine can't honour; DependencyError for a PDF without its reader;
        ModelContractError where a model fails.
        """
        options = self._checked(options)
        return self._read_page(_single_page(source, options), options)

    def stream(
        self,
        sources: Readable,
        *,
        workers: int = 2,
        options: Options | None = None,
        on_error: Callable[[OcrError], None] | None = None,
    ) -> Iterator[PageResult]:
        """Read any number of pages, yielding results in the order of the inputs.

        Pages are decoded while earlier ones are read by `workers` threads, so the stages of
        different pages overlap; never more than PAGES_AHEAD pages beside one per worker are held.

        Raises what `read` does. With `on_error`, an input or page that fails is handed to it and
        the others go on; without, the pages before it still come first. OptionError comes at once.
        """
        if workers < 1:
            raise OptionError("workers", f"{workers} is out of range", "give at least 1")
        options = self._checked(options)
        return self._stream(inputs.pages(sources, options.input, on_error), workers, options, on_error)

    def detect(self, source: Readable, options: Options | None = None) -> Detections:
        """Find the text regions of exactly one page, in reading order. Raises what `read` does."""
        options = self._checked(options)
        return self._detect(_single_page(source, options).image, options)[0]

    def recognize(self, lines: Readable, options: Options | None = None) -> tuple[RecognizedLine, ...]:
        """Recognise upright pictures of one line of text each.

        `lines` is whatever `read` takes, or a list of it: every page is one line. Raises what
        `read` does.
        """
        options = self._checked(options)
        images = [line.image for line in inputs.pages(lines, options.input)]
        return tuple(recognize.read_lines(images, self.rec, self.charset, options.rec, self.rec_lanes))

    def _checked(self, options: Options | None) -> Options:
        """Return the options of a call, after making sure that this engine can honour them."""
        wanted = self.options if options is None else options
        if not isinstance(wanted, Options):
            problem = f"are a {type(wanted).__name__}, not Options"
            raise OptionError("options", problem, "change engine.options with dataclasses.replace")
        if wanted.cls.enabled and self.cls is None:
            raise OptionError(
                "cls.enabled", "was not set when the engine was loaded", "set it in Engine.load"
            )
        return wanted

    def _stream(
        self,
        pages: Iterator[Page],
        workers: int,
        options: Options,
        on_error: Callable[[OcrError], None] | None,
    ) -> Iterator[PageResult]:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="ocr-onnx")
        pending: deque[Future[PageResult]] = deque()
        try:
            for page in _with_last_error(pages):
                if isinstance(page, OcrError):
                    pending.append(_failed(page))
                else:
                    pending.append(pool.submit(self._read_page, page, options))
                del page  # the pool's copy is the only one that may keep the pixels alive
                while pending and (len(pending) == workers + PAGES_AHEAD or pending[0].done()):
                    yield from _settled(pending.popleft(), on_error)
            while pending:
                yield from _settled(pending.popleft(), on_error)
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_page(self, page: Page, options: Options) -> PageResult:
        found, scaled = self._detect(page.image, options)
        images = crop.cut(page.image, crop.rectangles(found.quads_px), options.crop)
        angles = self._angles(images, options)
        upright = [classify.upright(image, angle) for image, angle in zip(images, angles, strict=True)]
        texts = recognize.read_lines(upright, self.rec, self.charset, options.rec, self.rec_lanes)
        outlines = found.outlines_px or tuple(found.quads_px)
        lines = tuple(
            TextLine(
                text=text.text,
                rec_score=text.score,
                rec_min_score=text.min_score,
                det_score=float(score),
                quad_px=crop.as_quad(quad),
                outline_px=crop.as_points(outline),
                angle=angle,
            )
            for text, score, quad, outline, angle in zip(
                texts, found.scores, found.quads_px, outlines, angles, strict=True
            )
        )
        kept = tuple(line for line in lines if line.rec_score >= options.rec.drop_score)
        height_px, width_px = page.image.shape[:2]
        return PageResult(
            lines=kept,
            width_px=width_px,
            height_px=height_px,
            source=page.source,
            index=page.index,
            filtered=len(lines) - len(kept),
            warnings=_warnings(scaled, found.unseen),
            provenance=self.provenance and replace(self.provenance, det_scale_xy=scaled.scale_xy),
            image=page.image,
        )

    def _detect(self, image: ImageBgr, options: Options) -> tuple[Detections, DetInput]:
        scaled = detect.preprocess(image, options.det)
        prob_map = self.det(scaled.image[None])[0]
        found = detect.postprocess(prob_map, (image.shape[1], image.shape[0]), options.det)
        return found.take(order.reading_order(found.quads_px, options.crop.order)), scaled

    def _angles(self, images: Sequence[ImageBgr], options: Options) -> Sequence[Angle]:
        if self.cls is None or not options.cls.enabled:
            return [0] * len(images)
        return classify.angles(images, self.cls, options.cls)


def _rec_lanes(path: Path, device: Device, runtime: RuntimeOptions, classes: int) -> recognize.Lanes | None:
    """Open rec once more for runs side by side; None where one run takes all there is."""
    threads = runtime.threads or usable_threads()
    count = min(threads, MAX_LANES)
    if device.kind != "cpu" or count == 1:
        return None
    session = Session(path, replace(runtime, threads=threads // count))
    return recognize.Lanes(contract.rec_infer(session, str(path), classes), count)


def _charset(files: model_store.ModelFiles, rec: Session) -> tuple[str, ...]:
    if files.dictionary is None:
        return recognize.charset_from(rec.metadata, str(files.rec.path))
    try:
        return recognize.charset_of(files.dictionary.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        problem, remedy = "is not UTF-8 text", "give a text file with one character per line"
        raise ModelContractError(str(files.dictionary), problem, remedy) from error


def _single_page(source: Readable, options: Options) -> Page:
    pages = list(islice(inputs.pages(source, options.input), 2))
    if not pages:
        raise InputError("input", "holds no page", "give something to read")
    if len(pages) > 1:
        raise InputError(
            pages[0].source, "holds more than one page", "use Engine.stream, or pick one with input.pages"
        )
    return pages[0]


def _warnings(scaled: DetInput, unseen: int) -> tuple[str, ...]:
    scale = min(scaled.scale_xy)
    found = []
    if scaled.bounded:
        found.append(f"the page was searched at {scale:.2f} of its size, as det.max_pixels allows no more")
    elif scale < COARSE_SCALE:
        found.append(
            f"the page was searched at {scale:.2f} of its size; raise det.limit_side_px for small text"
        )
    if unseen:
        found.append(f"{unseen} possible regions were not looked at; raise det.max_candidates")
    return tuple(found)


def _with_last_error(pages: Iterator[Page]) -> Iterator[Page | OcrError]:
    """Yield the pages, and what ends them as an item: those before it are still on their way."""
    try:
        yield from pages
    except OcrError as error:
        yield error


def _failed(error: OcrError) -> Future[PageResult]:
    future: Future[PageResult] = Future()
    future.set_exception(error)
    return future


def _settled(future: Future[PageResult], on_error: Callable[[OcrError], None] | None) -> Iterator[PageResult]:
    """Yield a page's result; hand its error to `on_error` or raise it."""
    try:
        result = future.result()
    except OcrError as error:
        if on_error is None:
            raise
        on_error(error)
    else:
        yield result
