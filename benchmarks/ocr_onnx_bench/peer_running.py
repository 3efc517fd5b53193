"""A plan of engines goes in; the engines come out installed and started, each in a process of its own."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from ocr_onnx import config
from ocr_onnx.errors import ModelError, OptionError
from ocr_onnx.threads import usable_threads
from ocr_onnx_bench import peer_install, peer_models
from ocr_onnx_bench.labels import LabelledPage
from ocr_onnx_bench.peer_install import Peer
from ocr_onnx_bench.peer_models import ModelFiles
from ocr_onnx_bench.peer_process import PeerError, PeerProcess, environment_of

WORKER = Path(__file__).with_name("peer_worker.py")
PAUSE_S = 0.2  # threads of the last run spin on for a while; the next engine is not to feel it

OPTIONS = "options"  # the setting that holds a variant's assignments, joined by "@"

Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReadLine:
    """One line as an engine read it, corners in page pixels."""

    quad_px: tuple[tuple[float, float], ...]
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass of one engine over all pages: the sums of its times, and the lines of every page.

    `outside_shares` are those of every page's time in which no network ran; None where not known.
    """

    seconds: float
    cpu_seconds: float
    outside_shares: tuple[float, ...] | None
    lines: tuple[tuple[ReadLine, ...], ...]


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


@dataclass(frozen=True, slots=True)
class Host:
    """What every engine's process gets: `envs` holds the environments, `scratch` is gone afterwards."""

    threads: int
    timeout_s: float
    scratch: Path
    envs: Path


def host_of(plan: Plan, scratch: Path) -> Host:
    """Return what `plan` says about the processes; environments that are not kept lie in `scratch`."""
    return Host(
        threads=plan.threads or usable_threads(),
        timeout_s=plan.timeout_s,
        scratch=scratch,
        envs=plan.envs.resolve() if plan.envs else scratch / "envs",
    )


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
            outside_shares=_outside_shares(answers),
            lines=tuple(tuple(_line(line) for line in answer["lines"]) for answer in answers),
        )


def _outside_shares(answers: Sequence[dict[str, Any]]) -> tuple[float, ...] | None:
    if any(answer.get("network_seconds") is None for answer in answers):
        return None
    return tuple(1 - answer["network_seconds"] / answer["seconds"] for answer in answers)


def _line(line: dict[str, Any]) -> ReadLine:
    return ReadLine(tuple((x, y) for x, y in line["quad"]), line["text"])


def order_of(names: Sequence[str], round_number: int) -> list[str]:
    """Return whose turn it is when: forwards and backwards, then the same from one engine on.

    So none is always first, and none always comes after the same other one.
    """
    by = round_number // 2 % len(names)
    rotated = [*names[by:], *names[:by]]
    return rotated[::-1] if round_number % 2 else rotated


def wanted_peers(plan: Plan) -> list[Peer]:
    """Return the engines that `plan` names, variants of ours too.

    Raises OptionError for an engine that is none, a variant with options that are none, and more
    threads than there are processors.
    """
    table = {peer.name: peer for peer in peer_install.peers()}
    names = plan.engines or tuple(table)
    for name in names:
        engine, *assignments = name.split("@")
        if engine not in table:
            raise OptionError("--engines", f"{engine!r} is no engine", f"choose from {', '.join(table)}")
        if assignments:
            table[name] = variant(table[engine], assignments)
    if plan.baseline not in names:
        raise OptionError("--baseline", f"{plan.baseline!r} is not among the engines", "name one that is run")
    most = os.cpu_count() or 1
    if plan.threads > most:  # RapidOCR would quietly take its default instead
        raise OptionError("--threads", f"{plan.threads} is more than the {most} processors", "give fewer")
    return [table[name] for name in dict.fromkeys(names)]


def variant(peer: Peer, assignments: Sequence[str]) -> Peer:
    """Return our engine with other options ("det.limit_side_px=1600"), named after them.

    Raises OptionError for an option that is none, or is not ours to change here, and for other engines.
    """
    name = "@".join((peer.name, *assignments))
    if peer.kind != "ocr_onnx":
        raise OptionError("--engines", f"{name!r} gives options to another's engine", "leave them out")
    config.load(assignments=assignments)  # raises for what is no option
    for assignment in assignments:
        if assignment.startswith(("models.", "runtime.")):
            remedy = "give options of input, det, crop, cls and rec; --threads sets the threads"
            raise OptionError("--engines", f"{name!r} changes models or runtime", remedy)
    return replace(peer, name=name, settings=(*peer.settings, (OPTIONS, "@".join(assignments))))


def options_of(peer: Peer) -> tuple[str, ...]:
    """Return the assignments of a variant of ours; none for other engines."""
    joined = dict(peer.settings).get(OPTIONS)
    return () if joined is None else tuple(joined.split("@"))


def find_models(wanted: Sequence[Peer], plan: Plan, host: Host, page: Path, left_out: list[str]) -> Models:
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
def started(
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
                running.append(start(peer, python, models.paths[peer.weights], host, first))
            except PeerError as error:
                left_out.append(f"{peer.name}: {error}")
        yield running
    finally:
        for engine in running:
            engine.process.close()


def start(peer: Peer, python: Path, models: Mapping[str, Path], host: Host, first: LabelledPage) -> Running:
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
