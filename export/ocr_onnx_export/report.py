"""How far ONNX files agree with Paddle: figures in, JSON and Markdown out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from ocr_onnx.manifest import Stage

Kind: TypeAlias = Literal["noise", "text"]
Facts: TypeAlias = Mapping[str, str | int | float]

MAX_ABS_DIFFERENCE = 1e-4
SUMMARY_HEAD = (
    "| file | max abs, noise | max abs, text | agreement | operations | ms | against the first | bytes |",
    "|---|---|---|---|---|---|---|---|",
)
INPUT_HEAD = (
    "| input | N x H x W | Paddle's answers | max abs of all files | agreement of all files | Paddle ms |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One file on one input against Paddle.

    `agreement` is the share of equal mask pixels (det) or of equal best classes (rec, cls), 0..1.
    `decisions` is how many of them there are. `variety` says how much their equality is worth: the
    share of text pixels (det) or the number of different best classes (rec, cls) in Paddle's answer.
    Times include the first run's warm-up and say little about speed.
    """

    candidate: str
    kind: Kind
    shape: tuple[int, int, int]
    max_abs: float
    mean_abs: float
    agreement: float
    decisions: int
    variety: float
    paddle_ms: float
    onnx_ms: float

    @property
    def passed(self) -> bool:
        """Whether the largest difference is within the limit and everything agrees."""
        return self.max_abs <= MAX_ABS_DIFFERENCE and self.agreement == 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """All comparisons of one model, and what it takes to repeat them.

    `reference` is what the files were compared with: Paddle, or the ONNX file that was rewritten.
    `answers` sums up what it answered over all inputs. `idle` names rewrites that found nothing to do.
    """

    model: str
    stage: Stage
    source_sha256: Mapping[str, str]
    candidates: Mapping[str, Facts]
    versions: Mapping[str, str]
    comparisons: tuple[Comparison, ...]
    reference: str = "Paddle"
    answers: Mapping[str, float] = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there are comparisons and all of them passed."""
        return bool(self.comparisons) and all(comparison.passed for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return the report in plain types, for JSON."""
        return {**asdict(self), "limit_max_abs": MAX_ABS_DIFFERENCE, "passed": self.passed}

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Return the report as a page to read."""
        sources = [f"- {name}: `{digest}`" for name, digest in self.source_sha256.items()]
        files = [
            f"- {name}: {facts['size_bytes']} bytes, `{facts['sha256']}`"
            for name, facts in self.candidates.items()
        ]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        parts = [
            f"# {self.model} ({self.stage})\n",
            f"Verdict: {self._verdict()}.\n",
            "\n".join(["Made from", *sources]) + "\n",
            "\n".join(["Files", *files]) + "\n",
            f"With {versions}.\n",
        ]
        if self.idle:
            parts.append(f"Rewrites with nothing to do here: {', '.join(self.idle)}.\n")
        if self.answers:
            parts.append(f"{self.reference}'s answers: {', '.join(map(_count, self.answers.items()))}.\n")
        if self.comparisons:
            parts += [self._summary(), self._inputs()]
        return "\n".join(parts)

    def _summary(self) -> str:
        """Return a table with a row per file, its worst figures over all inputs."""
        rows = []
        for name, facts in self.candidates.items():
            own = [one for one in self.comparisons if one.candidate == name]
            rows.append(_summary_row(name, facts, own))
        return "\n".join([*SUMMARY_HEAD, *rows]) + "\n"

    def _inputs(self) -> str:
        """Return a table with a row per input, the worst figures of all files; JSON has each."""
        keys = dict.fromkeys((one.kind, one.shape) for one in self.comparisons)
        groups = [[one for one in self.comparisons if (one.kind, one.shape) == key] for key in keys]
        head = [line.replace("Paddle", self.reference) for line in INPUT_HEAD]
        return "\n".join([*head, *(_input_row(self.stage, group) for group in groups)]) + "\n"

    def _verdict(self) -> str:
        if not self.comparisons:
            return "not compared with Paddle (give `--verify` in an environment with Paddle)"
        word = f"equal to {self.reference}" if self.passed else f"NOT equal to {self.reference}"
        return f"{word} (limits: {MAX_ABS_DIFFERENCE:g} anywhere, full agreement)"


def _summary_row(name: str, facts: Facts, own: Sequence[Comparison]) -> str:
    worst = [
        max((one.max_abs for one in own if one.kind == kind), default=None) for kind in ("noise", "text")
    ]
    cells = [
        name,
        *("" if value is None else f"{value:.1e}" for value in worst),
        f"{_percent(min(one.agreement for one in own))}" if own else "",
        str(facts.get("operations", "")),
        f"{facts['time_ms']:.1f}" if "time_ms" in facts else "",
        f"{facts['time_to_first']:.2f}" if "time_to_first" in facts else "",
        str(facts["size_bytes"]),
    ]
    return f"| {' | '.join(cells)} |"


def _input_row(stage: Stage, group: Sequence[Comparison]) -> str:
    one = group[0]
    answers = f"{one.variety:.0f} classes in {one.decisions}"
    if stage == "det":
        answers = f"{100 * one.variety:.1f} % text of {one.decisions} px"
    max_abs = max(each.max_abs for each in group)
    agreement = _percent(min(each.agreement for each in group))
    shape = "x".join(map(str, one.shape))
    return f"| {one.kind} | {shape} | {answers} | {max_abs:.1e} | {agreement} | {one.paddle_ms:.0f} |"


def _percent(share: float) -> str:
    """Return a share in percent; anything below 1 shows as below 100."""
    return f"{min(100 * share, 99.9999 if share < 1 else 100):.4f} %"


def _count(entry: tuple[str, float]) -> str:
    name, value = entry
    return f"{value:.3g} {name}" if isinstance(value, float) else f"{value} {name}"
