"""What the model store and its downloads share: the hash of a file, and who hears of progress."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes on disk so far and the bytes in all (None: not known)."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in lower-case hexadecimal; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
