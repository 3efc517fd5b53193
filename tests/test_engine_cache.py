"""Engines are built once for all processes, kept whole, and built anew where they are not what they were."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from ocr_onnx.errors import DeviceError
from ocr_onnx.runtime import engine_cache
from ocr_onnx.runtime.engine_cache import MARKER, EngineKey

KEY = EngineKey(
    model_sha256="00ff",
    stage="det",
    group="det-std",
    min_shapes="x:1x3x32x32",
    opt_shapes="x:1x3x736x736",
    max_shapes="x:1x3x992x992",
    precision="fp32",
    onnxruntime="1.31.1",
    tensorrt="10.14.1",
    architecture="sm_90",
)


class Builder:
    """Builds as ONNX Runtime does: an engine, its profile, and what was timed."""

    def __init__(self, fails: int = 0) -> None:
        self.calls = 0
        self.fails = fails
        self.times_before: list[str] = []

    def __call__(self, folder: Path, times: Path) -> None:
        self.calls += 1
        timed = times / "cache_sm90.timing"
        self.times_before.append(timed.read_text() if timed.is_file() else "")
        (folder / "det_sm90.engine").write_bytes(b"engine %d" % self.calls)
        if self.calls <= self.fails:
            raise DeviceError("tensorrt:0", "fails", "try again")
        (folder / "det_sm90.profile").write_bytes(b"profile")
        times.mkdir(exist_ok=True)
        timed.write_text(f"times {self.calls}")


def _no_word(line: str) -> None:
    raise AssertionError(line)


def test_an_engine_is_built_once_and_then_found(tmp_path: Path) -> None:
    build = Builder()
    folder = engine_cache.ready(tmp_path, KEY, build, _no_word)
    assert folder == engine_cache.ready(tmp_path, KEY, build, _no_word)
    assert build.calls == 1
    assert (folder / "det_sm90.engine").read_bytes() == b"engine 1"
    assert engine_cache.size_bytes(folder) > 15
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(
        [KEY.folder, KEY.timing]
    )


def test_the_marker_holds_the_key_and_the_hash_of_every_file(tmp_path: Path) -> None:
    folder = engine_cache.ready(tmp_path, KEY, Builder(), _no_word)
    marker = json.loads((folder / MARKER).read_text())
    assert marker["key"]["architecture"] == "sm_90"
    assert set(marker["files"]) == {"det_sm90.engine", "det_sm90.profile"}


@pytest.mark.parametrize("name", [field.name for field in fields(EngineKey)])
def test_every_part_of_the_key_makes_another_engine(tmp_path: Path, name: str) -> None:
    other = replace(KEY, **{name: f"{getattr(KEY, name)}0"})
    build = Builder()
    first = engine_cache.ready(tmp_path, KEY, build, _no_word)
    assert engine_cache.ready(tmp_path, other, build, _no_word) != first
    assert build.calls == 2


def test_keys_can_not_run_into_each_other() -> None:
    one, other = replace(KEY, stage="a", group="bc"), replace(KEY, stage="ab", group="c")
    assert one.folder.rpartition("-")[2] != other.folder.rpartition("-")[2]


def _change(folder: Path) -> None:
    (folder / "det_sm90.engine").write_bytes(b"engine X")


def _cut(folder: Path) -> None:
    (folder / "det_sm90.profile").write_bytes(b"")


def _lose(folder: Path) -> None:
    (folder / "det_sm90.engine").unlink()


def _lose_marker(folder: Path) -> None:
    (folder / MARKER).unlink()


def _break_marker(folder: Path) -> None:
    (folder / MARKER).write_bytes(b'{"format": 1, "key"')


def _empty_marker(folder: Path) -> None:
    (folder / MARKER).write_bytes(b"[]")


def _foreign(folder: Path) -> None:
    marker = json.loads((folder / MARKER).read_text())
    marker["key"]["architecture"] = "sm_75"
    (folder / MARKER).write_text(json.dumps(marker))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_change, "has other bytes in det_sm90.engine than when it was built"),
        (_cut, "has other bytes in det_sm90.profile"),
        (_lose, "is not whole"),
        (_lose_marker, "is not whole"),
        (_break_marker, "has a damaged engine.json"),
        (_empty_marker, "has a damaged engine.json"),
        (_foreign, "is another one's"),
    ],
)
def test_a_damaged_or_foreign_engine_is_built_anew_and_told_about(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    build, lines = Builder(), list[str]()
    folder = engine_cache.ready(tmp_path, KEY, build, _no_word)
    damage(folder)
    assert engine_cache.ready(tmp_path, KEY, build, lines.append) == folder
    assert build.calls == 2
    assert (folder / "det_sm90.engine").read_bytes() == b"engine 2"
    assert len(lines) == 1
    assert told in lines[0]
    assert "building it anew" in lines[0]
    assert engine_cache.ready(tmp_path, KEY, build, _no_word) == folder
    assert build.calls == 2


def test_an_engine_that_can_not_be_loaded_is_built_anew_unless_somebody_else_has(tmp_path: Path) -> None:
    build, lines = Builder(), list[str]()
    folder = engine_cache.ready(tmp_path, KEY, build, _no_word)
    unloadable = (folder / MARKER).read_bytes()
    engine_cache.ready(tmp_path, KEY, build, lines.append, unloadable)
    assert build.calls == 2
    assert "can't be loaded" in lines[0]
    engine_cache.ready(tmp_path, KEY, build, _no_word, unloadable)
    assert build.calls == 2


def test_what_an_ended_build_left_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / f".{KEY.folder}.building"
    left.mkdir()
    (left / "half.engine").write_bytes(b"half")
    folder = engine_cache.ready(tmp_path, KEY, Builder(), _no_word)
    assert not left.exists()
    assert not (folder / "half.engine").exists()


def test_a_build_that_fails_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    build = Builder(fails=1)
    with pytest.raises(DeviceError, match="fails"):
        engine_cache.ready(tmp_path, KEY, build, _no_word)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    engine_cache.ready(tmp_path, KEY, build, _no_word)


def test_times_are_shared_by_all_engines_of_a_gpu(tmp_path: Path) -> None:
    build = Builder()
    for key in (KEY, replace(KEY, group="det-wide"), replace(KEY, architecture="sm_75")):
        engine_cache.ready(tmp_path, key, build, _no_word)
    assert build.times_before == ["", "times 1", ""]


def test_a_build_that_fails_on_old_times_is_tried_without(tmp_path: Path) -> None:
    engine_cache.ready(tmp_path, KEY, Builder(), _no_word)
    build, lines = Builder(fails=1), list[str]()
    engine_cache.ready(tmp_path, replace(KEY, group="det-wide"), build, lines.append)
    assert build.times_before == ["times 1", ""]
    assert "trying once more without the times" in lines[0]


def test_a_cache_that_can_not_be_written_is_refused_with_the_remedy(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(DeviceError, match=r"can't be written.*set OCR_ONNX_CACHE_DIR"):
        engine_cache.ready(place, KEY, Builder(), _no_word)


def _build_slowly(folder: Path, times: Path) -> None:
    del times
    (folder / "det.engine").write_text(str(os.getpid()))
    time.sleep(0.3)
    with (folder.parent / "builds.log").open("a") as log:
        log.write(f"{os.getpid()}\n")


def _be_a_worker(cache: Path) -> str:
    folder = engine_cache.ready(cache, KEY, _build_slowly, lambda _: None)
    return (folder / "det.engine").read_text()


def test_of_many_processes_one_builds(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        engines = pool.map_async(_be_a_worker, [tmp_path] * 8, chunksize=1).get(timeout=120)
    builders = (tmp_path / "builds.log").read_text().split()
    assert len(builders) == 1
    assert set(engines) == set(builders)


def test_who_waits_for_another_says_so(tmp_path: Path) -> None:
    started, told = threading.Event(), threading.Event()

    def build(folder: Path, _: Path) -> None:
        started.set()
        assert told.wait(60)
        (folder / "det.engine").write_bytes(b"engine")

    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        told.set()

    first = threading.Thread(target=engine_cache.ready, args=(tmp_path, KEY, build, _no_word))
    first.start()
    assert started.wait(60)
    engine_cache.ready(tmp_path, KEY, build, hear)
    first.join(60)
    assert lines == ["waiting for another process that builds an engine, to have det-std"]


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    engine_cache.write_whole(tmp_path / "new" / "model.onnx", b"model")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]
