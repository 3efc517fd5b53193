"""`bench load` against a stub server, with an engine that reads what the stub reads."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ocr_onnx.data import PageResult, Provenance
from ocr_onnx.errors import InputError
from ocr_onnx_bench import load
from tests.conftest import Run
from tests.stub_server import Answer, Asked, Stub, page, pages_of, serving

PROVENANCE = Provenance((("det", "d@0"), ("rec", "r@1")), "cpu", "CPUExecutionProvider", (1.0, 1.0), "1")


def read(data: bytes, device: str = "cpu") -> list[PageResult]:
    """Read each letter of a file as a page."""
    used = replace(PROVENANCE, device=device)
    return [
        replace(page(letter, index=index), provenance=used)
        for index, letter in enumerate(data.decode("ascii"))
    ]


class FakeEngine:
    provenance = PROVENANCE

    @classmethod
    def load(cls, *_: Any, **__: Any) -> "FakeEngine":
        return cls()

    def stream(self, data: bytes | list[bytes], on_error: Any = None) -> Iterator[PageResult]:
        for one in data if isinstance(data, list) else [data]:
            if one == b"bad":
                on_error(InputError("bad", "is bad", "give another"))
            yield from read(one)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    monkeypatch.setattr(load, "Engine", FakeEngine)
    monkeypatch.setattr(load, "PAUSE_WHEN_BUSY_S", 0.001)
    (tmp_path / "data").mkdir()
    for name, content in {"a.png": b"a", "b.png": b"bc", "c.png": b"bad"}.items():
        (tmp_path / "data" / name).write_bytes(content)
    with serving() as stub:
        stub.answer = lambda asked: Answer(body=pages_of(*read(asked.file, "cuda:0")))
        yield stub


def loaded(run: Run, stub: Stub, folder: Path, *more: object) -> tuple[int, dict[str, Any], str]:
    outcome = run(
        *("bench", "load", "--url", stub.url, "--data", folder / "data", "--results", folder),
        *("--seconds", 0.3, "--clients", "1,3", "--engine-seconds", 0.1, *more),
    )
    file = folder / "load-data.json"
    return outcome.code, json.loads(file.read_text()) if file.exists() else {}, outcome.out + outcome.err


def test_a_good_server(run: Run, stub: Stub, tmp_path: Path) -> None:
    code, found, told = loaded(run, stub, tmp_path, "--server-pid", os.getpid(), "--sample-seconds", 0.01)
    assert code == 0
    assert (found["kind"], found["files"], found["pages"], found["server"]["name"]) == (
        "load",
        2,
        3,
        "mobile",
    )
    assert [step["clients"] for step in found["steps"]] == [1, 3]
    for step in found["steps"]:
        assert step["requests"] > 0
        assert step["pages"] >= step["requests"]
        assert (step["busy"], step["errors"], step["other"]) == (0, [], 0)
        assert step["waits"]["p50_ms"] <= step["waits"]["p99_ms"] <= step["waits"]["max_ms"]
        assert step["pages_per_s"] == pytest.approx(step["pages"] / step["seconds"], rel=1e-3)
        assert len(step["resident_mib"]) > 1
        assert step["growth"] is not None
        assert step["over_engine"] == pytest.approx(
            step["pages_per_s"] / step["engine_pages_per_s"], rel=1e-3
        )
    assert "load: 3 clients, 0.3 s" in told
    assert stub.most_at_once <= 3
    assert {asked.file for asked in stub.asked} == {b"a", b"bc"}


def test_errors_are_counted_by_kind_and_busy_apart(run: Run, stub: Stub, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        if asked.file == b"bc":
            return Answer(504)
        return Answer(503) if len(stub.asked) % 2 else Answer(413)

    stub.answer = answer
    code, found, told = loaded(run, stub, tmp_path)
    last = found["steps"][-1]
    kinds = dict(last["errors"])
    assert code == 1
    assert set(kinds) <= {"InputError", "ServerError 504"}
    assert last["busy"] + sum(kinds.values()) == last["requests"]
    assert (last["pages"], last["waits"], last["growth"]) == (0, None, None)
    assert "ServerError 504" in told


def test_busy_alone_is_no_failure(run: Run, stub: Stub, tmp_path: Path) -> None:
    stub.answer = lambda _: Answer(503)
    code, found, _ = loaded(run, stub, tmp_path)
    assert code == 0
    assert all(step["busy"] == step["requests"] > 0 for step in found["steps"])


@pytest.mark.parametrize("wrong", [b"x", b"", b"abc"])
def test_pages_that_an_engine_reads_otherwise_are_counted(
    run: Run, stub: Stub, tmp_path: Path, wrong: bytes
) -> None:
    stub.answer = lambda _: Answer(body=pages_of(*read(wrong)))
    code, found, _ = loaded(run, stub, tmp_path)
    assert code == 1
    assert all(step["other"] > 0 for step in found["steps"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--clients", "4,x"), "error: --clients: '4,x' are no numbers of clients"),
        (("--clients", "0"), "error: --clients"),
        (("--server-pid", 2**30), "error: --server-pid: no process 1073741824 can be watched"),
        (("--record", "../x"), "is not a name"),
    ],
)
def test_a_plan_that_is_none(
    run: Run, stub: Stub, tmp_path: Path, more: tuple[object, ...], told: str
) -> None:
    code, found, said = loaded(run, stub, tmp_path, *more)
    assert (code, found) == (2, {})
    assert told in said
    assert not stub.asked


def test_a_server_with_other_models_is_told(
    run: Run, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(PROVENANCE, models=(("det", "d@0"), ("rec", "r@2")))
    monkeypatch.setattr(FakeEngine, "provenance", other)
    code, _, told = loaded(run, stub, tmp_path)
    assert code == 2
    assert "mobile: has models of its own" in told


def test_nothing_to_send_is_told(run: Run, stub: Stub, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / name).unlink()
    code, _, told = loaded(run, stub, tmp_path)
    assert code == 1
    assert "holds no page that can be read" in told


def test_a_server_that_is_not_there_is_told(run: Run, stub: Stub, tmp_path: Path) -> None:
    code, _, told = loaded(run, SimpleNamespace(url="http://127.0.0.1:1"), tmp_path)  # type: ignore[arg-type]
    assert code == 1
    assert "can't be reached" in told
    assert not stub.asked


def test_growth_is_that_of_the_last_third_over_the_first() -> None:
    settling, first, between, last = [50.0], [100.0, 300.0, 90.0], [500.0] * 3, [110.0, 105.0, 400.0]
    assert load.growth_of(settling + first + between + last) == pytest.approx(0.1)
    assert load.growth_of([100.0, 100.0]) is None
    assert load.growth_of([]) is None


def test_the_memory_of_processes_that_were_started_counts() -> None:
    before = load.resident_mib(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", "held = b'x' * 100_000_000; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        after = load.resident_mib(os.getpid())
        child.kill()
    assert before is not None
    assert after is not None
    assert after - before > 90


def test_waits() -> None:
    assert load.waits_of([]) is None
    assert load.waits_of([5.0]) == load.Waits(5.0, 5.0, 5.0, 5.0)
    found = load.waits_of([float(ms) for ms in range(101)])
    assert found is not None
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms) == (50, 90, 99, 100)


def test_a_hash_leaves_out_what_differs_by_nature() -> None:
    (one,) = read(b"a")
    used = replace(PROVENANCE, device="cuda:0", provider="x", version="2", fallback="y")
    assert load.hash_of(one) == load.hash_of(replace(one, source="other", provenance=used))
    assert load.hash_of(one) != load.hash_of(replace(one, width_px=1))
    assert load.hash_of(one) != load.hash_of(replace(one, provenance=None))
