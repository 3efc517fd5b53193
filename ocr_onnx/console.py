"""What people watch: errors, warnings and progress go in; lines and bars on stderr come out."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


def say(kind: str, message: object) -> None:
    """Write one line to stderr; characters that would break it or steer the terminal come out escaped."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(message))
    sys.stderr.write(f"{kind}: {text}\n")


@contextmanager
def download_progress(*, quiet: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a callback (file name, bytes so far, bytes in all if known) that draws a bar per file.

    Without a terminal on stderr each file is announced once instead; `quiet` shows nothing.
    """
    if quiet:
        yield lambda _name, _done, _total: None
        return
    if not sys.stderr.isatty():
        announced = set[str]()

        def announce(name: str, _done: int, _total: int | None) -> None:
            if name not in announced:
                announced.add(name)
                say("downloading", name)

        yield announce
        return

    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    name_column = TextColumn("{task.description}", markup=False)
    bars = _progress(name_column, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks = dict[str, "TaskID"]()

    def show(name: str, done: int, total: int | None) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name)
        bars.update(tasks[name], completed=done, total=total)

    with bars:
        yield show


@contextmanager
def page_progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Give a callback (name of the page just done) that draws a line of progress from the second page on.

    How many pages there will be is unknown until the last one, since folders and PDF files open
    up along the way: it counts and times, and promises nothing.
    """
    # Where stdout is the terminal too, the results are the progress, and a bar would run through them.
    if quiet or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda _name: None
        return

    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    name_column = TextColumn("{task.description}", markup=False)
    line = _progress(SpinnerColumn(), TextColumn("{task.completed} pages"), TimeElapsedColumn(), name_column)
    task = line.add_task("", total=None)
    count = 0

    def advance(name: str) -> None:
        nonlocal count
        count += 1
        line.update(task, completed=count, description=name)
        if count == 2:
            line.start()

    try:
        yield advance
    finally:
        line.stop()


def _progress(*columns: "ProgressColumn") -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    # stdout carries results and stays out of rich's hands; stderr lines appear above the bar.
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
