"""What stands for `peer_worker` in the tests: an engine without networks that behaves as its kind says.

Run as a file by `sys.executable`. Every page has one line, "page", at a fixed place. Reading takes
`settings["seconds"]` by its own word, so that no test measures time.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

QUAD = [[10.0, 10.0], [110.0, 10.0], [110.0, 40.0], [10.0, 40.0]]


def answer(wanted: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """Answer one question as a whole engine would."""
    if wanted["do"] == "load":
        loaded.update(wanted)
        return {"load_s": 0.0, "versions": {"fake": "1.0"}}
    if wanted["do"] == "end":
        return {
            "peak_rss_mib": float(loaded["settings"]["rss"]),
            "facts": {"threads": str(loaded["threads"])},
        }
    reads = loaded["reads"] = loaded.get("reads", 0) + 1
    seconds = float(loaded["settings"]["seconds"])
    text = f"page {reads}" if loaded["kind"] == "moody" else "page"
    lines = [{"quad": QUAD, "text": text, "score": 0.9}]
    return {"seconds": seconds, "cpu_seconds": 2 * seconds, "lines": lines}


def say(line: str) -> None:
    """Answer at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Answer until "end"."""
    loaded: dict[str, Any] = {}
    for question in sys.stdin:
        wanted = json.loads(question)
        found = answer(wanted, loaded)
        if wanted["do"] == "read":
            with Path(loaded["settings"]["log"]).open("a", encoding="utf-8") as log:
                log.write(f"{loaded['settings']['name']} {Path(wanted['image']).name}\n")
            misbehave(loaded["kind"], loaded["reads"])
        say(json.dumps(found))
        if wanted["do"] == "end":
            return


def misbehave(kind: str, reads: int) -> None:
    """Fail as `kind` does."""
    if kind == "unstartable" or (kind == "crash" and reads == 5):
        raise RuntimeError(f"no model at {Path.cwd()}/weights.bin")
    if kind == "killed":
        os.abort()
    if kind == "garbage":
        say("Loading checkpoint shards: 100%")
    if kind == "silent":
        time.sleep(60)


if __name__ == "__main__":
    main()
