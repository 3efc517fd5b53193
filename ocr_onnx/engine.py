"""The whole product on one screen: whatever a caller has in, `PageResult`s out."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from typing import Self, TypeVar

from ocr_onnx import classify, crop, detect, fp16, inference, inputs, model_store, order, recognize, search
from ocr_onnx.data import Angle, Detections, ImageBgr, Page, PageResult, Provenance, TextLine
from ocr_onnx.detect import DetInput
from ocr_onnx.errors import InputError, OcrError, OptionError
from ocr_onnx.inference import Models, Networks, WarmUp
from ocr_onnx.inputs import Readable
from ocr_onnx.manifest import Stage
from ocr_onnx.options import ModelOptions, Options, Precision, RuntimeOptions
from ocr_onnx.recognize import RecognizedLine
from ocr_onnx.runtime import granted

PAGES_AHEAD = 2  # decoded and waiting, or read and not yet asked for, beside one per worker
COARSE_SCALE = 0.25  # below it, text of ordinary size is too small for the detector

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Engine:
    """The networks as callables, and the options that calls start from.

    Keeps no state between calls: any number of threads may share one engine. `charset` maps class
    to character. `rec_lanes` reads the lines of one page side by side where `rec` would read them
    one run after the other. `pages_at_once` is how many pages `stream` reads at a time unless told,
    and `share` gives the networks for so many: with fewer threads a run, as runs side by side do
    more than one after the other on all threads. `provenance` is stamped on every result. `models` are
    what the networks run on; an engine of other callables has none.
    """

    det: detect.Infer
    rec: recognize.Infer
    charset: tuple[str, ...]
    cls: classify.Infer | None = None
    rec_lanes: recognize.Lanes | None = None
    pages_at_once: int = 2
    share: Callable[[int], Networks] | None = None
    options: Options = Options()
    provenance: Provenance | None = None
    models: Models | None = None

    @classmethod
    def load(
        cls,
        models: str | ModelOptions = "mobile",
        *,
        device: str = "cpu",
        threads: int = 0,
        precision: Precision = "fp32",
        allow_fallback: bool = False,
        gpu_memory_mib: int = 0,
        tf32: bool = True,
        options: Options = Options(),
        progress: model_store.Progress | None = None,
    ) -> Self:
        """Find, verify and open the models: the only step that touches disk or network.

        `models` is the name of a model set ("mobile", "server", "svtrv2", "repsvtr") or, for own
        files and folders, `ModelOptions`. `device` to `tf32` are those of `RuntimeOptions`; all models run
        on the one device. `progress` hears of downloads.

        With `precision` "fp16" the models are compared with FP32 on their first use on a kind of GPU.

        Raises OptionError (an option, or a device that is none), ModelError, DownloadError,
        DeviceError (a device or precision that can't be used here) and DependencyError (no ONNX
        Runtime, or two).
        """
        wanted = models if isinstance(models, ModelOptions) else ModelOptions(name=models)
        asked = RuntimeOptions(device, threads, precision, allow_fallback, gpu_memory_mib, tf32)
        if wanted.cls and not options.cls.enabled:
            raise OptionError("models.cls", "was given, but cls.enabled is off", "set both, or neither")
        runtime, fallback = granted(asked)
        files = model_store.resolve(wanted, progress)
        fp16.admit(files, runtime, wanted, with_cls=options.cls.enabled)
        opened = inference.open_models(files, runtime, with_cls=options.cls.enabled)
        charset = inference.charset_of(files, opened.rec)
        layout = inference.layout(opened, len(charset), runtime.threads)
        used = [("det", files.det), ("rec", files.rec)] + [("cls", files.cls)] * options.cls.enabled
        return cls(
            det=layout.networks.det,
            rec=layout.networks.rec,
            charset=charset,
            cls=layout.networks.cls,
            rec_lanes=layout.rec_lanes,
            pages_at_once=layout.pages_at_once,
            share=layout.share,
            options=options,
            provenance=Provenance(
                models=tuple((stage, f"{file.spec.name}@{file.sha256}") for stage, file in used),
                device=str(opened.det.device),
                provider=opened.det.provider,
                det_scale_xy=(1.0, 1.0),
                version=version("ocr-onnx"),
                precision=runtime.precision,
                fallback=fallback,
            ),
            models=opened,
        )

    def warm_up(self) -> WarmUp:
        """Run every network once in each shape that pages will need, on every GPU; of little use on a CPU.

        Without it, the first pages wait while the GPU chooses and loads its kernels for each new
        shape. Returns how many runs that took, and how long; none for an engine without `models`.
        Raises ModelContractError where a model fails.
        """
        return WarmUp(0, 0.0) if self.models is None else inference.warm_up(self.models, len(self.charset))

    def shapes_seen(self) -> dict[Stage, int]:
        """Return in how many different shapes the runs of every stage came so far, those of `warm_up` too.

        A number that goes on growing on a GPU means runs that wait for their first time.
        """
        return {} if self.models is None else inference.shapes_seen(self.models)

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
        workers: int = 0,
        options: Options | None = None,
        on_error: Callable[[OcrError], None] | None = None,
    ) -> Iterator[PageResult]:
        """Read any number of pages, yielding results in the order of the inputs.

        Pages are decoded while earlier ones are read by `workers` threads (0: `pages_at_once`), so
        the stages of different pages overlap; never more than PAGES_AHEAD pages beside one per
        worker are held. Several workers share the processor: many pages take less time than one
        after the other, each of them takes more. The last page has the processor to itself.

        Raises what `read` does. With `on_error`, an input or page that fails is handed to it and
        the others go on; without, the pages before it still come first. OptionError comes at once.
        """
        if workers < 0:
            raise OptionError("workers", f"{workers} is out of range", "give 0, to let it choose, or more")
        options = self._checked(options)
        pages = inputs.pages(sources, options.input, on_error)
        return self._stream(pages, workers or self.pages_at_once, options, on_error)

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

    def sharing(self, pages: int) -> Self:
        """Return this engine for so many pages at a time, each on its share of the processor.

        For callers with threads of their own; `stream` sees to it itself. Results are the same.
        """
        if pages == 1 or self.share is None:
            return self
        return replace(self, **self.share(pages)._asdict(), rec_lanes=None)

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
        sharing = self.sharing(workers)
        try:
            for page, is_last in _with_last_told(inputs.with_last_error(pages)):
                if isinstance(page, OcrError):
                    pending.append(_failed(page))
                else:
                    pending.append(pool.submit((self if is_last else sharing)._read_page, page, options))
                del page  # the pool's copy is the only one that may keep the pixels alive
                while pending and (len(pending) > workers or pending[0].done()):
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
        found, seen = search.find(image, self.det, options.det)
        return found.take(order.reading_order(found.quads_px, options.crop.order)), seen

    def _angles(self, images: Sequence[ImageBgr], options: Options) -> Sequence[Angle]:
        if self.cls is None or not options.cls.enabled:
            return [0] * len(images)
        return classify.angles(images, self.cls, options.cls)


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


def _with_last_told(items: Iterator[Item]) -> Iterator[tuple[Item, bool]]:
    """Yield every item with whether it is the last, and keep no hold of it."""
    held = deque(islice(items, 1))
    for item in items:
        held.append(item)
        del item
        yield held.popleft(), False
    if held:
        yield held.popleft(), True


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
