"""How far ONNX files agree with Paddle: figures in, JSON and Markdown out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from ocr_onnx.manifest import Stage

Kind: TypeAlias = Literal["noise", "text"]

MAX_ABS_DIFFERENCE = 1e-4
TABLE_HEAD = (
    "| file | input | N x H x W | max abs | mean abs | agreement | Paddle ms | ONNX ms |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One file on one input against Paddle.

    `agreement` is the share of equal mask pixels (det) or of equal best classes (rec, cls), 0..1.
    Times include the first run's warm-up and say little about speed.
    """

    candidate: str
    kind: Kind
    shape: tuple[int, int, int]
    max_abs: float
    mean_abs: float
    agreement: float
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
    """

    model: str
    stage: Stage
    source_sha256: Mapping[str, str]
    candidates: Mapping[str, Mapping[str, str | int]]
    versions: Mapping[str, str]
    comparisons: tuple[Comparison, ...]
    reference: str = "Paddle"

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
        if self.comparisons:
            head = [line.replace("Paddle", self.reference) for line in TABLE_HEAD]
            parts.append("\n".join([*head, *map(_row, self.comparisons)]) + "\n")
        return "\n".join(parts)

    def _verdict(self) -> str:
        if not self.comparisons:
            return "not compared with Paddle (give `--verify` in an environment with Paddle)"
        word = f"equal to {self.reference}" if self.passed else f"NOT equal to {self.reference}"
        return f"{word} (limits: {MAX_ABS_DIFFERENCE:g} anywhere, full agreement)"


def _row(one: Comparison) -> str:
    shape = "x".join(map(str, one.shape))
    return (
        f"| {one.candidate} | {one.kind} | {shape} | {one.max_abs:.1e} | {one.mean_abs:.1e} "
        f"| {100 * one.agreement:.3f} % | {one.paddle_ms:.0f} | {one.onnx_ms:.0f} |"
    )
