"""Engines read many pages in several layouts in turns; pages per second, memory and ratios come out.

A layout is how an engine takes a list of pages: so many processes with so many threads each, which
share the pages out one by one, or one process that streams them, several at a time. The wall time
of a whole pass counts. `ocr-onnx bench peers --throughput` runs it from the command line.
"""

import re
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ocr_onnx.errors import InputError
from ocr_onnx_bench import environment, peer_install, peer_running
from ocr_onnx_bench.labels import LabelledPage
from ocr_onnx_bench.peer_install import Peer
from ocr_onnx_bench.peer_models import ModelFiles
from ocr_onnx_bench.peer_pages import read_pages
from ocr_onnx_bench.peer_process import PeerError
from ocr_onnx_bench.peer_running import Host, Models, Plan, Running, Say, options_of, order_of
from ocr_onnx_bench.tables import aligned

LEAST_PAGES = 20  # of a pass, unless told: the set is read several times over
STREAM_WORKERS = 2
RULE = (
    "wall time of a pass over the list of pages, from the pictures' files to all lines; processes of a "
    "layout take the next page when they are done with one; memory is the sum over the processes"
)

Texts: TypeAlias = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How an engine takes a list of pages.

    `workers` None: `processes` with `threads` each take page after page. Else one process streams
    the pages, `workers` at a time.
    """

    processes: int
    threads: int
    workers: int | None = None

    def __str__(self) -> str:
        shape = f"{self.processes}x{self.threads}"
        return shape if self.workers is None else f"{shape} stream {self.workers}"


ONE_THREAD = Layout(1, 1)
"""What other layouts of an engine are set against: page after page on one thread."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the list: wall time, processor time of all processes, the texts of every page."""

    seconds: float
    cpu_seconds: float
    texts: Texts


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of median speeds, and the lowest and highest of single rounds."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class LayoutFigures:
    """One layout of one engine; `rounds_pages_per_s` has one value per repetition.

    `best` marks the engine's fastest layout. `over_one_thread` is its speed over that of the same
    engine page after page on one thread; `baseline_over` is the baseline's best speed over it.
    `other_text` names pages whose text was not that of page after page on one thread (None where
    that did not run).
    """

    engine: str
    weights: peer_install.Weights
    options: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    layout: Layout
    pages_per_s: float
    rounds_pages_per_s: tuple[float, ...]
    cpu_ms: float
    peak_rss_mib: float
    other_text: tuple[str, ...] | None
    best: bool = False
    over_one_thread: Ratio | None = None
    baseline_over: Ratio | None = None


@dataclass(frozen=True, slots=True)
class ThroughputRecord:
    """All layouts of all engines, and what that rests on."""

    kind: Literal["throughput"]
    data: str
    data_sha256: str
    pages: int
    pages_per_pass: int
    rule: str
    repetitions: int
    threads: int
    baseline: str
    models: ModelFiles
    layouts: tuple[LayoutFigures, ...]
    left_out: tuple[str, ...]
    environment: environment.Environment


@dataclass(slots=True)
class Team:
    """The processes of one layout, and their passes so far."""

    peer: Peer
    layout: Layout
    members: list[Running]
    passes: list[Pass] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Engine and layout."""
        return f"{self.peer.name} {self.layout}"

    def take_pass(self, pages: Sequence[LabelledPage]) -> Pass:
        """Read all pages once. Raises PeerError."""
        start = time.perf_counter()
        if self.layout.workers is None:
            answers = self._share_out(pages)
            texts = tuple(tuple(line["text"] for line in answer["lines"]) for answer in answers)
        else:
            answers = [self._stream(pages, self.layout.workers)]
            texts = tuple(tuple(lines) for lines in answers[0]["texts"])
        seconds = time.perf_counter() - start
        return Pass(seconds, sum(answer["cpu_seconds"] for answer in answers), texts)

    def _share_out(self, pages: Sequence[LabelledPage]) -> list[dict[str, Any]]:
        """Let every process take the next page when it is done with one; answers by page."""
        waiting = deque(enumerate(pages))
        answers: dict[int, dict[str, Any]] = {}

        def work(member: Running) -> None:
            while True:
                try:
                    place, page = waiting.popleft()
                except IndexError:  # another one took the last
                    return
                answers[place] = member.read(page)

        with ThreadPoolExecutor(len(self.members)) as pool:
            for _ in pool.map(work, self.members):
                pass  # an error of a process comes out here
        return [answers[place] for place in range(len(pages))]

    def _stream(self, pages: Sequence[LabelledPage], workers: int) -> dict[str, Any]:
        (member,) = self.members
        question = {"do": "stream", "images": [str(page.image) for page in pages], "workers": workers}
        return member.process.ask(question, ("cpu_seconds", "texts"), member.timeout_s * len(pages))


def layouts_of(kind: str, threads: int) -> tuple[Layout, ...]:
    """Return the layouts of an engine on so many threads; those of peers are processes that fill them."""
    if kind == "ocr_onnx":
        streams = (Layout(1, 1, 1), Layout(1, threads, STREAM_WORKERS), Layout(1, threads, threads))
        return tuple(dict.fromkeys((ONE_THREAD, Layout(1, threads), *streams)))
    counts = [count for count in range(1, threads + 1) if threads % count == 0]
    return tuple(dict.fromkeys((ONE_THREAD, *(Layout(count, threads // count) for count in counts))))


def make_record(data: Path, plan: Plan, pages_per_pass: int, say: Say) -> ThroughputRecord:
    """Let the engines of `plan` read the pages of `data` in all their layouts.

    `pages_per_pass` 0 means the whole set, as often as makes LEAST_PAGES. Raises what
    `peers.make_record` does.
    """
    wanted = peer_running.wanted_peers(plan)
    found = read_pages(data, plan.limit_images)
    left_out = [problem for problem in found.problems if not problem.startswith("accuracy: ")]
    count = pages_per_pass or len(found.pages) * -(-LEAST_PAGES // len(found.pages))
    pages = tuple(islice(cycle(found.pages), count))
    with tempfile.TemporaryDirectory(prefix="ocr-onnx-peers-") as once:
        host = peer_running.host_of(plan, Path(once))
        models = peer_running.find_models(wanted, plan, host, pages[0].image, left_out)
        with _started(wanted, models, host, pages[0], left_out, say) as teams:
            through = compare(teams, pages, plan.repetitions, left_out, say)
            figures = _figures(through, pages, left_out)
    if not figures:
        raise InputError("peers", f"no engine could be run ({left_out[-1]})", "see what each of them needs")
    return ThroughputRecord(
        kind="throughput",
        data=found.name,
        data_sha256=found.sha256,
        pages=len(found.pages),
        pages_per_pass=count,
        rule=RULE,
        repetitions=plan.repetitions,
        threads=host.threads,
        baseline=plan.baseline,
        models=models.files,
        layouts=with_ratios(figures, plan.baseline),
        left_out=tuple(left_out),
        environment=environment.describe(),
    )


@contextmanager
def _started(
    wanted: Sequence[Peer], models: Models, host: Host, first: LabelledPage, left_out: list[str], say: Say
) -> Iterator[list[Team]]:
    """Give the layouts that could be started, and end their processes."""
    teams: list[Team] = []
    with ExitStack() as stack:
        for peer in wanted:
            if peer.weights not in models.paths:
                left_out.append(f"{peer.name}: no models for it")
                continue
            for layout in layouts_of(peer.kind, host.threads):
                team = Team(peer, layout, [])
                try:
                    say(f"starting {team.name}")
                    python = peer_install.install(peer.requirements, host.envs)
                    for _ in range(layout.processes):
                        own = replace(host, threads=layout.threads)
                        member = peer_running.start(peer, python, models.paths[peer.weights], own, first)
                        stack.callback(member.process.close)
                        team.members.append(member)
                except PeerError as error:
                    left_out.append(f"{team.name}: {error}")
                else:
                    teams.append(team)
        yield teams


def compare(
    teams: Sequence[Team], pages: Sequence[LabelledPage], repetitions: int, left_out: list[str], say: Say
) -> list[Team]:
    """Let the layouts take turns of a pass each; return those that came through.

    The first round warms up and is not kept. One that fails is named in `left_out`.
    """
    alive = {team.name: team for team in teams}
    names = list(alive)
    for number in range(repetitions + 1 if names else 0):
        say("warming up" if number == 0 else f"round {number} of {repetitions}")
        for name in order_of(names, number):
            if name not in alive:
                continue
            time.sleep(peer_running.PAUSE_S)
            try:
                taken = alive[name].take_pass(pages)
            except PeerError as error:
                left_out.append(f"{name}: {error}")
                del alive[name]
            else:
                alive[name].passes += [taken] if number else []
    return list(alive.values())


def _figures(
    teams: Sequence[Team], pages: Sequence[LabelledPage], left_out: list[str]
) -> list[LayoutFigures]:
    expected = {team.peer.name: team.passes[0].texts for team in teams if team.layout == ONE_THREAD}
    figures: list[LayoutFigures] = []
    for team in teams:
        try:
            ends = [
                member.process.ask({"do": "end"}, ("peak_rss_mib", "facts"), member.timeout_s)
                for member in team.members
            ]
        except PeerError as error:
            left_out.append(f"{team.name}: {error}")
        else:
            figures.append(figures_of(team, pages, ends, expected.get(team.peer.name)))
    return figures


def figures_of(
    team: Team, pages: Sequence[LabelledPage], ends: Sequence[dict[str, Any]], expected: Texts | None
) -> LayoutFigures:
    """Sum the passes of a layout up. `ends` are its processes' last answers."""
    speeds = tuple(len(pages) / one.seconds for one in team.passes)
    return LayoutFigures(
        engine=team.peer.name,
        weights=team.peer.weights,
        options=options_of(team.peer),
        versions=tuple(sorted(team.members[0].versions.items())),
        facts=tuple(sorted(ends[0]["facts"].items())),
        layout=team.layout,
        pages_per_s=statistics.median(speeds),
        rounds_pages_per_s=speeds,
        cpu_ms=statistics.median(1000 * one.cpu_seconds / len(pages) for one in team.passes),
        peak_rss_mib=round(sum(end["peak_rss_mib"] for end in ends), 1),
        other_text=None if expected is None else other_text(team.passes, pages, expected),
    )


def other_text(passes: Sequence[Pass], pages: Sequence[LabelledPage], expected: Texts) -> tuple[str, ...]:
    """Return the names of pages that some pass read otherwise than `expected`, each once."""
    names = (
        page.name
        for one in passes
        for page, texts, right in zip(pages, one.texts, expected, strict=True)
        if texts != right
    )
    return tuple(dict.fromkeys(names))


def with_ratios(figures: Sequence[LayoutFigures], baseline: str) -> tuple[LayoutFigures, ...]:
    """Mark every engine's best layout, and set all beside one thread and beside the baseline's best."""
    best: dict[str, LayoutFigures] = {}
    for one in figures:
        best[one.engine] = max(best.get(one.engine, one), one, key=lambda other: other.pages_per_s)
    single = {one.engine: one for one in figures if one.layout == ONE_THREAD}
    return tuple(
        replace(
            one,
            best=best[one.engine] is one,
            over_one_thread=ratio_of(one, single[one.engine]) if one.engine in single else None,
            baseline_over=ratio_of(best[baseline], one) if baseline in best else None,
        )
        for one in figures
    )


def ratio_of(one: LayoutFigures, other: LayoutFigures) -> Ratio:
    """Return the speed of `one` over that of `other`. Both have as many rounds."""
    rounds = [
        ours / theirs for ours, theirs in zip(one.rounds_pages_per_s, other.rounds_pages_per_s, strict=True)
    ]
    return Ratio(one.pages_per_s / other.pages_per_s, min(rounds), max(rounds))


def default_name(found: ThroughputRecord) -> str:
    """Return a name for the record, after the set."""
    return "throughput-" + re.sub(r"[^A-Za-z0-9._-]", "-", found.data)


COLUMNS = (
    *("engine", "layout", "pages/s", "lowest", "highest", "CPU ms", "peak MiB"),
    *("over 1x1", "(rounds)", "baseline over", "(rounds)", ""),
)


def summary(found: ThroughputRecord) -> str:
    """Return the figures as a table for a person, with what was left out below it."""
    table = aligned([COLUMNS, *(_row(one) for one in found.layouts)])
    head = (
        f"{found.data}: {found.pages_per_pass} pages a pass ({found.pages} different), {found.threads} "
        f"threads, medians of {found.repetitions} passes in turns; layouts are processes x threads; "
        f"'baseline over' is the best layout of {found.baseline} over this one"
    )
    notes = [
        f"other text than on one thread: {one.engine} {one.layout}: {', '.join(one.other_text)}"
        for one in found.layouts
        if one.other_text
    ]
    return "\n".join([head, *table, *notes, *(f"left out: {reason}" for reason in found.left_out)])


def _row(one: LayoutFigures) -> tuple[str, ...]:
    return (
        one.engine,
        str(one.layout),
        f"{one.pages_per_s:.2f}",
        f"{min(one.rounds_pages_per_s):.2f}",
        f"{max(one.rounds_pages_per_s):.2f}",
        f"{one.cpu_ms:.1f}",
        f"{one.peak_rss_mib:.0f}",
        *_cells(one.over_one_thread),
        *_cells(one.baseline_over),
        "best" if one.best else "",
    )


def _cells(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return "-", "-"
    return f"{ratio.median:.2f}", f"{ratio.lowest:.2f}-{ratio.highest:.2f}"
