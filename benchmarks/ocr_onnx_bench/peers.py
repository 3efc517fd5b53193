"""Several OCR engines read the same pages in turns; time, memory and accuracy side by side come out.

Each engine lives in a process of its own, and only the one whose turn it is works. A turn is one
pass over all pages. After one pass of each that is not counted, the turns go round as often as
asked, in another order every time, so that whatever the machine does meanwhile meets all engines
alike. `ocr-onnx bench peers` runs it from the command line.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ocr_onnx.errors import InputError
from ocr_onnx_bench import environment, peer_running
from ocr_onnx_bench.labels import LabelledPage
from ocr_onnx_bench.peer_figures import EngineFigures, PeersRecord, compared, figures_of
from ocr_onnx_bench.peer_pages import PageSet, read_pages
from ocr_onnx_bench.peer_process import PeerError
from ocr_onnx_bench.peer_running import (
    Plan,
    Running,
    Say,
    find_models,
    host_of,
    order_of,
    started,
    wanted_peers,
)

RULE = (
    "from the picture's file to its lines, in the engine's own process; engines as shipped but for the "
    "model files, the threads and the line classifier (off); ICDAR 2015 matching, IoU > 0.5; texts after "
    "NFKC, case folding and removal of white space; characters: mean over matched regions of "
    "1 - edit distance / longer length"
)


def make_record(data: Path, plan: Plan, say: Say) -> PeersRecord:
    """Install the engines that `plan` asks for, let them read the pages of `data`, compare them.

    Raises OptionError for an engine that is none or more threads than there are processors, and
    OcrError where no engine at all could be run or `data` holds no page.
    """
    wanted = wanted_peers(plan)
    pages = read_pages(data, plan.limit_images)
    left_out = list(pages.problems)
    with tempfile.TemporaryDirectory(prefix="ocr-onnx-peers-") as once:
        host = host_of(plan, Path(once))
        models = find_models(wanted, plan, host, pages.pages[0].image, left_out)
        with started(wanted, models, host, pages.pages[0], left_out, say) as running:
            through = compare(running, pages.pages, plan.repetitions, left_out, say)
            figures = compared(_figures(through, pages, left_out), through, pages, plan.baseline)
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
        engines=figures,
        left_out=tuple(left_out),
        environment=environment.describe(),
    )


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
            time.sleep(peer_running.PAUSE_S)
            try:
                turn = alive[name].take_turn(pages)
            except PeerError as error:
                left_out.append(f"{name}: {error}")
                del alive[name]
            else:
                alive[name].turns += [turn] if number else []
    return list(alive.values())


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
