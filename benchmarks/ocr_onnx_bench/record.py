"""A record (a dataclass of plain values) goes in; a JSON file of stable form comes out."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from ocr_onnx.errors import OptionError

RESULTS = Path("benchmarks/results")
"""Where records are committed, relative to a checkout's root."""


def path_of(name: str, folder: Path = RESULTS) -> Path:
    """Return the file of the record `name`; raise `OptionError` for a name that is not a plain one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise OptionError("--record", f"{name!r} is not a name", "use letters, digits, '.', '-' and '_'")
    return folder / f"{name}.json"


def write(file: Path, record: Any) -> None:
    """Write the dataclass `record` to `file`: keys sorted, floats to six digits, one final newline.

    The same values always give the same bytes, so that a committed record changes only where a
    figure did.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = _rounded(dataclasses.asdict(record))
    text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
