"""Several OCR engines read the same pages in turns; time, memory and accuracy side by side come out.

Each engine lives in a process of its own, and only the one whose turn it is works. A turn is one
pass over all pages. After one pass of each that is not counted, the turns go round as often as
asked, in another order every time, so that whatever the machine does meanwhile meets all engines
alike. `ocr-onnx bench peers` runs it from the command line.
"""

import hashlib
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from ocr_onnx import inputs
from ocr_onnx.errors import InputError, ModelError, OcrError, OptionError
from ocr_onnx.options import InputOptions
from ocr_onnx.threads import usable_threads
from ocr_onnx_bench import environment, labels, metrics, peer_install, peer_models
from ocr_onnx_bench.labels import LabelledPage
from ocr_onnx_bench.metrics import NORMALISED, Counts
from ocr_onnx_bench.peer_install import Peer
from ocr_onnx_bench.peer_models import ModelFiles
from ocr_onnx_bench.peer_process import PeerError, PeerProcess, environment_of

WORKER = Path(__file__).with_name("peer_worker.py")
PAUSE_S = 0.2  # threads of the last run spin on for a while; the next engine is not to feel it
RULE = (
    "from the picture's file to its lines, in the engine's own process; engines as shipped but for the "
    "model files, the threads and the line classifier (off); ICDAR 2015 matching, IoU > 0.5; texts after "
    "NFKC, case folding and removal of white space; characters: mean over matched regions of "
    "1 - edit distance / longer length"
)

Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class PageSet:
    """The pages to read. Without labels their `regions` are empty; `problems` are sentences."""

    name: str
    sha256: str
    pages: tuple[LabelledPage, ...]
    labelled: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadLine:
    """One line as an engine read it, corners in page pixels."""

    quad_px: tuple[tuple[float, float], ...]
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass of one engine over all pages: the sums of its times, and the lines of every page."""

    seconds: float
    cpu_seconds: float
    lines: tuple[tuple[ReadLine, ...], ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Against the labels: regions, regions with the right text, characters of matched regions."""

    precision: float
    recall: float
    hmean: float
    end_to_end_f1: float
    character_accuracy: float
    matched: int
    truths: int
    found: int


@dataclass(frozen=True, slots=True)
class Share:
    """What the baseline needs of what an engine needs: below 1 where the baseline is better.

    `time`, `cpu` and `peak_rss` are ratios of the medians; `time_lowest` and `time_highest` are
    those of single rounds.
    """

    time: float
    time_lowest: float
    time_highest: float
    cpu: float
    peak_rss: float


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One engine: `page_ms` and `page_cpu_ms` are means over the pages, one per repetition.

    `median_ms` and `median_cpu_ms` are their medians. `start_s` is from the start of the process
    to the lines of the first page. `repeatable` tells whether every turn read the same.
    """

    name: str
    weights: peer_install.Weights
    versions: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    start_s: float
    median_ms: float
    median_cpu_ms: float
    page_ms: tuple[float, ...]
    page_cpu_ms: tuple[float, ...]
    peak_rss_mib: float
    lines: int
    characters: int
    repeatable: bool
    accuracy: Accuracy | None
    baseline_share: Share | None = None


@dataclass(frozen=True, slots=True)
class PeersRecord:
    """All engines beside each other, and what that rests on."""

    kind: Literal["peers"]
    data: str
    data_sha256: str
    labelled: bool
    pages: int
    rule: str
    repetitions: int
    threads: int
    baseline: str
    models: ModelFiles
    engines: tuple[EngineFigures, ...]
    left_out: tuple[str, ...]
    environment: environment.Environment


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `threads` 0 means all that this process may use, `envs` None environments for once."""

    engines: tuple[str, ...] = ()
    baseline: str = "ocr-onnx"
    repetitions: int = 5
    threads: int = 0
    limit_images: int | None = None
    timeout_s: float = 300.0
    envs: Path | None = None
    det_model: Path | None = None
    rec_model: Path | None = None
    paddle_models: Path | None = None


def read_pages(data: Path, limit_images: int | None = None) -> PageSet:
    """Read the labelled set in `data`, else the pictures of a folder, else the one picture.

    A picture that can't be read, or holds several pages, is left out: the engines would fail at it
    in different ways. Raises InputError where nothing is left.
    """
    found = _labelled_or_pictures(data)
    pages: list[LabelledPage] = []
    problems = list(found.problems)
    for page in found.pages[:limit_images]:
        try:
            count = len(list(islice(inputs.pages(page.image, InputOptions()), 2)))
        except OcrError as error:
            problems.append(f"{page.name}: {error.problem}")
            continue
        if count == 1:
            pages.append(replace(page, image=page.image.resolve()))
        else:
            problems.append(f"{page.name}: holds several pages")
    if not pages:
        raise InputError(str(data), f"no page could be used ({problems[-1]})", "give other pictures")
    return replace(found, pages=tuple(pages), problems=tuple(problems))


def _labelled_or_pictures(data: Path) -> PageSet:
    pictures = _pictures(data)
    if pictures == [data]:
        return _unlabelled(data, pictures, "accuracy: one picture has no labels")
    try:
        found = labels.read_set(data)
    except InputError as error:
        if not pictures:
            raise
        return _unlabelled(data, pictures, f"accuracy: {error.problem}")
    if found.format == "line pictures":
        problems = (*found.problems, "accuracy: the labels of line pictures have no regions")
        return PageSet(found.name, found.sha256, found.pages, False, problems)
    return PageSet(found.name, found.sha256, found.pages, True, found.problems)


def _unlabelled(data: Path, pictures: Sequence[Path], problem: str) -> PageSet:
    pages = tuple(LabelledPage(picture.name, picture, ()) for picture in pictures)
    return PageSet(data.resolve().stem, _digest(pictures), pages, False, (problem,))


def _pictures(data: Path) -> list[Path]:
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    return [file for file in files if file.is_file() and file.suffix.lower() in labels.PICTURE_SUFFIXES]


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def order_of(names: Sequence[str], round_number: int) -> list[str]:
    """Return whose turn it is when: forwards and backwards, then the same from one engine on.

    So none is always first, and none always comes after the same other one.
    """
    by = round_number // 2 % len(names)
    rotated = [*names[by:], *names[:by]]
    return rotated[::-1] if round_number % 2 else rotated


@dataclass(frozen=True, slots=True)
class Host:
    """What every engine's process gets: `envs` holds the environments, `scratch` is gone afterwards."""

    threads: int
    timeout_s: float
    scratch: Path
    envs: Path


@dataclass(frozen=True, slots=True)
class Models:
    """The files for the record, and where they are: kind of weights -> stage -> path.

    A kind that is missing could not be had; one without stages is what the engine brings itself.
    """

    files: ModelFiles
    paths: Mapping[str, Mapping[str, Path]]


@dataclass(slots=True)
class Running:
    """An engine that was started, and its turns so far."""

    peer: Peer
    process: PeerProcess
    timeout_s: float
    versions: dict[str, str] = field(default_factory=dict)
    start_s: float = 0.0
    turns: list[Turn] = field(default_factory=list)

    def read(self, page: LabelledPage) -> dict[str, Any]:
        """Read one page. Raises PeerError that names it."""
        try:
            question = {"do": "read", "image": str(page.image)}
            return self.process.ask(question, ("seconds", "cpu_seconds", "lines"), self.timeout_s)
        except PeerError as error:
            raise PeerError(f"{error}, at {page.name}") from error

    def take_turn(self, pages: Sequence[LabelledPage]) -> Turn:
        """Read all pages once."""
        answers = [self.read(page) for page in pages]
        return Turn(
            seconds=sum(answer["seconds"] for answer in answers),
            cpu_seconds=sum(answer["cpu_seconds"] for answer in answers),
            lines=tuple(tuple(_line(line) for line in answer["lines"]) for answer in answers),
        )


def _line(line: dict[str, Any]) -> ReadLine:
    return ReadLine(tuple((x, y) for x, y in line["quad"]), line["text"])


def compare(
    running: Sequence[Running], pages: Sequence[LabelledPage], repetitions: int, left_out: list[str], say: Say
) -> list[Running]:
    """Let the engines take turns; return those that came through, with their turns.

    The first round warms up and is not kept. An engine that fails is named in `left_out` and the
    others go on.
    """
    alive = {engine.peer.name: engine for engine in running}
    for number in range(repetitions + 1):
        if not alive:
            break
        say("warming up" if number == 0 else f"round {number} of {repetitions}")
        for name in order_of([engine.peer.name for engine in running], number):
            if name not in alive:
                continue
            time.sleep(PAUSE_S)
            try:
                turn = alive[name].take_turn(pages)
            except PeerError as error:
                left_out.append(f"{name}: {error}")
                del alive[name]
            else:
                alive[name].turns += [turn] if number else []
    return list(alive.values())


def figures_of(engine: Running, pages: PageSet, end: dict[str, Any]) -> EngineFigures:
    """Sum an engine's turns up. `end` is the worker's last answer."""
    turns = engine.turns
    page_ms = tuple(1000 * turn.seconds / len(pages.pages) for turn in turns)
    cpu_ms = tuple(1000 * turn.cpu_seconds / len(pages.pages) for turn in turns)
    lines = turns[-1].lines
    return EngineFigures(
        name=engine.peer.name,
        weights=engine.peer.weights,
        versions=tuple(sorted(engine.versions.items())),
        facts=tuple(sorted(end["facts"].items())),
        start_s=engine.start_s,
        median_ms=statistics.median(page_ms),
        median_cpu_ms=statistics.median(cpu_ms),
        page_ms=tuple(round(value, 3) for value in page_ms),
        page_cpu_ms=tuple(round(value, 3) for value in cpu_ms),
        peak_rss_mib=round(end["peak_rss_mib"], 1),
        lines=sum(len(page) for page in lines),
        characters=sum(len(line.text) for page in lines for line in page),
        repeatable=all(turn.lines == lines for turn in turns),
        accuracy=accuracy_of(pages.pages, lines) if pages.labelled else None,
    )


def accuracy_of(pages: Sequence[LabelledPage], lines: Sequence[Sequence[ReadLine]]) -> Accuracy:
    """Compare what was read with the labels, page by page."""
    regions, with_text = Counts(), Counts()
    true_texts: list[str] = []
    read_texts: list[str] = []
    for page, read in zip(pages, lines, strict=True):
        outlines = [np.array(line.quad_px, dtype=np.float32) for line in read]
        matching = metrics.match(
            [region.outline for region in page.regions],
            [region.ignored for region in page.regions],
            outlines,
        )
        truths, texts = [region.text for region in page.regions], [line.text for line in read]
        regions += matching.counts
        with_text += metrics.score_end_to_end(matching, truths, texts, NORMALISED)
        true_texts += [truths[row] for row, _ in matching.pairs]
        read_texts += [texts[found] for _, found in matching.pairs]
    return Accuracy(
        precision=regions.precision,
        recall=regions.recall,
        hmean=regions.hmean,
        end_to_end_f1=with_text.hmean,
        character_accuracy=metrics.score_texts(true_texts, read_texts, NORMALISED).character_accuracy,
        matched=regions.matched,
        truths=regions.truths,
        found=regions.found,
    )


def share_of(baseline: EngineFigures, other: EngineFigures) -> Share:
    """Return what `baseline` needs of what `other` needs. Both have as many repetitions."""
    rounds = [ours / theirs for ours, theirs in zip(baseline.page_ms, other.page_ms, strict=True)]
    return Share(
        time=baseline.median_ms / other.median_ms,
        time_lowest=min(rounds),
        time_highest=max(rounds),
        cpu=baseline.median_cpu_ms / other.median_cpu_ms,
        peak_rss=baseline.peak_rss_mib / other.peak_rss_mib,
    )


def make_record(data: Path, plan: Plan, say: Say) -> PeersRecord:
    """Install the engines that `plan` asks for, let them read the pages of `data`, compare them.

    Raises OptionError for an engine that is none or more threads than there are processors, and
    OcrError where no engine at all could be run or `data` holds no page.
    """
    wanted = _wanted(plan)
    pages = read_pages(data, plan.limit_images)
    left_out = list(pages.problems)
    with tempfile.TemporaryDirectory(prefix="ocr-onnx-peers-") as once:
        scratch = Path(once)
        host = Host(
            threads=plan.threads or usable_threads(),
            timeout_s=plan.timeout_s,
            scratch=scratch,
            envs=plan.envs.resolve() if plan.envs else scratch / "envs",
        )
        models = _find_models(wanted, plan, host, pages.pages[0].image, left_out)
        with _started(wanted, models, host, pages.pages[0], left_out, say) as running:
            through = compare(running, pages.pages, plan.repetitions, left_out, say)
            figures = _figures(through, pages, left_out)
    if not figures:
        raise InputError("peers", f"no engine could be run ({left_out[-1]})", "see what each of them needs")
    if all(engine.name != plan.baseline for engine in figures):
        left_out.append(f"ratios: {plan.baseline}, which they are against, did not run")
    return PeersRecord(
        kind="peers",
        data=pages.name,
        data_sha256=pages.sha256,
        labelled=pages.labelled,
        pages=len(pages.pages),
        rule=RULE,
        repetitions=plan.repetitions,
        threads=host.threads,
        baseline=plan.baseline,
        models=models.files,
        engines=with_shares(figures, plan.baseline),
        left_out=tuple(left_out),
        environment=environment.describe(),
    )


def _wanted(plan: Plan) -> list[Peer]:
    table = {peer.name: peer for peer in peer_install.peers()}
    names = plan.engines or tuple(table)
    for name in names:
        if name not in table:
            raise OptionError("--engines", f"{name!r} is no engine", f"choose from {', '.join(table)}")
    if plan.baseline not in names:
        raise OptionError("--baseline", f"{plan.baseline!r} is not among the engines", "name one that is run")
    most = os.cpu_count() or 1
    if plan.threads > most:  # RapidOCR would quietly take its default instead
        raise OptionError("--threads", f"{plan.threads} is more than the {most} processors", "give fewer")
    return [table[name] for name in dict.fromkeys(names)]


def _find_models(wanted: Sequence[Peer], plan: Plan, host: Host, page: Path, left_out: list[str]) -> Models:
    """Return what the engines are to run on. What can't be had is named, and its engines do not run."""
    paths: dict[str, dict[str, Path]] = {"embedded": {}, "own": {}}
    files = ModelFiles(embedded=peer_models.embedded())
    needed = {peer.weights for peer in wanted}
    stock = peer_models.given_stock(plan.det_model, plan.rec_model)
    try:
        if "stock" in needed:
            if stock is None:
                stock = peer_models.shipped_stock(peer_install.install(peer_install.stock(), host.envs))
            agreement = peer_models.check_agreement(stock, page)
            paths["stock"] = stock
            files = replace(files, stock=peer_models.hashes(stock), agreement=agreement)
    except (PeerError, ModelError) as error:
        left_out.append(f"stock models: {error}")
    try:
        if "paddle" in needed:
            folders = peer_models.paddle_folders(plan.paddle_models, host.scratch)
            weights = peer_models.hashes({stage: at / "inference.pdiparams" for stage, at in folders.items()})
            paths["paddle"] = folders
            files = replace(files, paddle=weights, paddle_pinned=peer_models.are_pinned(weights))
    except ModelError as error:
        left_out.append(f"Paddle models: {error}")
    return Models(files, paths)


@contextmanager
def _started(
    wanted: Sequence[Peer],
    models: Models,
    host: Host,
    first: LabelledPage,
    left_out: list[str],
    say: Say,
) -> Iterator[list[Running]]:
    """Give the engines that could be installed and started, one process each, and end them all."""
    running: list[Running] = []
    try:
        for peer in wanted:
            if peer.weights not in models.paths:
                left_out.append(f"{peer.name}: no models for it")
                continue
            try:
                say(f"installing {peer.name}")
                python = peer_install.install(peer.requirements, host.envs)
                say(f"starting {peer.name}")
                running.append(_start(peer, python, models.paths[peer.weights], host, first))
            except PeerError as error:
                left_out.append(f"{peer.name}: {error}")
        yield running
    finally:
        for engine in running:
            engine.process.close()


def _start(peer: Peer, python: Path, models: Mapping[str, Path], host: Host, first: LabelledPage) -> Running:
    """Start an engine's process, load its models and read one page."""
    started = time.perf_counter()
    variables = environment_of(host.threads, inherit_python_path=not peer.requirements)
    # -P: the worker's folder is ours, and its modules must not hide any of the peer's
    process = PeerProcess((str(python), "-P", str(WORKER)), variables, host.scratch)
    engine = Running(peer, process, host.timeout_s)
    request = {
        "do": "load",
        "kind": peer.kind,
        "threads": host.threads,
        "models": {stage: str(path) for stage, path in models.items()},
        "settings": dict(peer.settings),
    }
    engine.versions = process.ask(request, ("versions",), host.timeout_s)["versions"]
    engine.read(first)
    engine.start_s = time.perf_counter() - started
    return engine


def _figures(running: Sequence[Running], pages: PageSet, left_out: list[str]) -> list[EngineFigures]:
    figures: list[EngineFigures] = []
    for engine in running:
        try:
            end = engine.process.ask({"do": "end"}, ("peak_rss_mib", "facts"), engine.timeout_s)
        except PeerError as error:
            left_out.append(f"{engine.peer.name}: {error}")
        else:
            figures.append(figures_of(engine, pages, end))
    return figures


def with_shares(figures: Sequence[EngineFigures], baseline: str) -> tuple[EngineFigures, ...]:
    """Set every engine beside the one called `baseline`, if that is among them."""
    against = next((engine for engine in figures if engine.name == baseline), None)
    if against is None:
        return tuple(figures)
    return tuple(replace(engine, baseline_share=share_of(against, engine)) for engine in figures)


def default_name(found: PeersRecord) -> str:
    """Return a name for the record, after the set."""
    return "peers-" + re.sub(r"[^A-Za-z0-9._-]", "-", found.data)


COLUMNS = (
    *("engine", "ms/page", "lowest", "highest", "CPU ms", "peak MiB", "start s", "lines"),
    *("Hmean", "e2e F1", "characters", "time", "(rounds)", "CPU", "peak"),
)


def summary(found: PeersRecord) -> str:
    """Return the figures as a table for a person, with what was left out below it."""
    rows = [COLUMNS, *(_row(engine) for engine in found.engines)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    head = (
        f"{found.data}: {found.pages} pages, {found.threads} threads, "
        f"medians of {found.repetitions} repetitions in turns; the last four columns are what "
        f"{found.baseline} needs of what the engine needs"
    )
    notes = [f"other weights: {engine.name}" for engine in found.engines if engine.weights == "own"]
    notes += [
        f"not the same text every time: {engine.name}" for engine in found.engines if not engine.repeatable
    ]
    return "\n".join([head, *table, *notes, *(f"left out: {reason}" for reason in found.left_out)])


def _row(engine: EngineFigures) -> tuple[str, ...]:
    accuracy, share = engine.accuracy, engine.baseline_share
    return (
        engine.name,
        f"{engine.median_ms:.1f}",
        f"{min(engine.page_ms):.1f}",
        f"{max(engine.page_ms):.1f}",
        f"{engine.median_cpu_ms:.1f}",
        f"{engine.peak_rss_mib:.0f}",
        f"{engine.start_s:.2f}",
        str(engine.lines),
        *(
            (f"{accuracy.hmean:.4f}", f"{accuracy.end_to_end_f1:.4f}", f"{accuracy.character_accuracy:.4f}")
            if accuracy
            else ("-", "-", "-")
        ),
        *(
            (
                f"{share.time:.2f}",
                f"{share.time_lowest:.2f}-{share.time_highest:.2f}",
                f"{share.cpu:.2f}",
                f"{share.peak_rss:.2f}",
            )
            if share
            else ("-", "-", "-", "-")
        ),
    )
