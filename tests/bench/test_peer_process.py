"""The worker of our own engine, end to end; causes of failure; environments that are there already."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from ocr_onnx_bench import peer_install, peer_running, peers
from ocr_onnx_bench.peer_process import CAUSE_CHARS, PeerError, PeerProcess, cause_in, environment_of

DEMO = Path(__file__).parents[1] / "data" / "boarding-pass.png"


def test_our_own_engine_is_measured_in_a_process_of_its_own() -> None:
    plan = peer_running.Plan(engines=("ocr-onnx",), repetitions=2, threads=1)
    found = peers.make_record(DEMO, plan, lambda _step: None)
    (ours,) = found.engines
    assert [stage for stage, _ in found.models.embedded] == ["det", "rec"]
    assert ours.facts == (("provider", "CPUExecutionProvider"),)
    assert dict(ours.versions).keys() >= {"ocr-onnx", "numpy"}
    assert ours.lines > 10
    assert ours.repeatable
    assert ours.outside_share is not None
    assert 0 < ours.outside_share < 1
    assert 50 < ours.peak_rss_mib < 4000
    assert all(cpu > 0 for cpu in ours.page_cpu_ms)


CAUSES = {
    "": "",
    "Illegal instruction": "Illegal instruction",
    "Collecting a\nERROR: No distribution for a==9\n\n": "ERROR: No distribution for a==9",
    "  × No solution:\n  ╰─▶ Because there is no b and\n      you need it, no.\n": (
        "Because there is no b and you need it, no."
    ),
    'Traceback:\n  File "/home/me/x.py"\nOSError: /home/me/lib/libGL.so.1: no such file\n': (
        "OSError: libGL.so.1: no such file"
    ),
    "TypeError: C:\\Users\\me\\x.py is 2/3 of it\n": "TypeError: x.py is 2/3 of it",
    "error: GET https://me:secret@example.org/simple failed": "error: GET URL failed",
    "MaxRetryError: HTTPSConnectionPool(host='example.org', port=443)": (
        "MaxRetryError: HTTPSConnectionPool(host, port=443)"
    ),
    "Error: " + "x" * 1000: "Error: " + "x" * (CAUSE_CHARS - 7) + "...",
}


@pytest.mark.parametrize("printed", CAUSES)
def test_a_cause_is_one_line_without_paths_addresses_and_hosts(printed: str) -> None:
    assert cause_in(printed) == CAUSES[printed]


def test_a_command_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="can't be started"):
        PeerProcess((str(tmp_path / "python"),), {}, tmp_path)


def test_a_worker_that_is_asked_to_read_before_it_loaded_says_so(tmp_path: Path) -> None:
    process = PeerProcess((sys.executable, "-P", str(peer_running.WORKER)), dict(os.environ), tmp_path)
    with pytest.raises(PeerError, match=r"ended with status 1 \(nothing was loaded\)"):
        process.ask({"do": "read", "image": "a.png"}, (), 30)


def test_peers_do_not_see_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "ours")
    assert environment_of(3, inherit_python_path=True)["PYTHONPATH"] == "ours"
    assert "PYTHONPATH" not in environment_of(3, inherit_python_path=False)
    assert environment_of(3, inherit_python_path=False)["OMP_NUM_THREADS"] == "3"


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(shutil, "which", lambda _name: None)

    def run(command: tuple[str, ...], _folder: Path) -> None:
        commands.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(peer_install, "_run", run)
    python = peer_install.install(("a==1",), tmp_path / "envs")
    assert commands == [
        (sys.executable, "-m", "venv", str(python.parents[1])),
        (str(python), "-m", "pip", "install", "--quiet", "a==1"),
    ]
    assert peer_install.install(("a==1",), tmp_path / "envs") == python
    assert peer_install.install(("a==2",), tmp_path / "envs") != python
    assert len(commands) == 4
    assert peer_install.install((), tmp_path / "envs") == Path(sys.executable)


def test_every_engine_but_ours_is_pinned() -> None:
    table = peer_install.peers()
    assert len({peer.name for peer in table}) == len(table)
    for peer in table[2:]:
        assert all("==" in requirement for requirement in peer.requirements)
