"""The asking side of `peer_worker`: a command starts an engine's process, questions get its answers."""

import contextlib
import json
import os
import queue
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

CAUSE_CHARS = 300
STOP_TIMEOUT_S = 30.0


class PeerError(Exception):
    """An engine could not be installed, ended, kept silent or answered nonsense: one line says which.

    It never leaves this package: the engine is left out, with this as the reason.
    """


class PeerProcess:
    """A running worker. Every answer is waited for within a bound; whatever goes wrong ends the process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        try:
            # the command is ours: an interpreter and the worker's file
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                env=dict(environment),
                cwd=folder,
            )
        except OSError as error:
            self._printed.close()
            raise PeerError(f"can't be started ({error.strerror})") from error
        assert self._process.stdin is not None  # noqa: S101 (PIPE)
        assert self._process.stdout is not None  # noqa: S101 (PIPE)
        self._questions = self._process.stdin
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(
            target=_forward, args=(self._process.stdout, self._answers), daemon=True
        )
        self._reader.start()

    def ask(self, question: Mapping[str, object], keys: Sequence[str], timeout_s: float) -> dict[str, Any]:
        """Return the answer to `question`, which has `keys`; PeerError where none such comes in time."""
        try:
            self._questions.write(json.dumps(question).encode() + b"\n")
            self._questions.flush()
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty as error:
            self.close()
            raise PeerError(f"gave no answer within {timeout_s:g} s") from error
        except OSError:  # a closed pipe: it has ended
            answer = b""
        if not answer:
            raise PeerError(self._why_it_ended())
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict) or any(key not in found for key in keys):
            self.close()
            raise PeerError(f"gave an answer that is none ({cause_in(answer.decode(errors='replace'))})")
        return found

    def close(self) -> None:
        """End the process, if it has not ended by itself."""
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        self._reader.join(STOP_TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                _close_quietly(stream)
        self._printed.close()

    def _why_it_ended(self) -> str:
        code = self._process.wait(STOP_TIMEOUT_S)
        self._printed.seek(0)
        cause = cause_in(self._printed.read().decode(errors="replace"))
        self.close()
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"{ended} ({cause})" if cause else ended


def _forward(stream: IO[bytes], answers: "queue.SimpleQueue[bytes]") -> None:
    """Hand on line by line what the process answers, and b"" at the end."""
    for line in stream:
        answers.put(line)
    answers.put(b"")


def _close_quietly(stream: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # a question that was never read
        stream.close()


def cause_in(printed: str) -> str:
    """Return the last thing that looks like an error, on one line, without paths, addresses and hosts."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if re.search(r"╰─▶|[Ee]rror\b|ERROR", line)]
    cause = " ".join(lines[starts[-1] if starts else -1 :]).removeprefix("╰─▶ ")
    cause = re.sub(r"\w+://[^\s'\"]+", "URL", cause)
    cause = re.sub(r"host='[^']*'", "host", cause)
    cause = re.sub(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\":]+)*[/\\](?=[^\s/\\'\":])", "", cause)
    return cause if len(cause) <= CAUSE_CHARS else f"{cause[:CAUSE_CHARS]}..."


def environment_of(threads: int, *, inherit_python_path: bool) -> dict[str, str]:
    """Return the variables of a worker: the caller's, and the number of threads for OpenMP."""
    variables = dict(os.environ)
    variables |= {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if not inherit_python_path:
        variables.pop("PYTHONPATH", None)  # it would lend our packages to the peer
    return variables
