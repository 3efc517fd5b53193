"""`ocr-onnx run --server`: what a local run writes, from a stub server's answers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ocr_onnx import Engine
from tests.conftest import Run
from tests.stub_server import Answer, Asked, Stub, error_of, lines_of, page, pages_of, serving

DEMO = Path(__file__).parent / "data" / "boarding-pass.png"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving() as stub:
        yield stub


def refused(kind: str, subject: str, status: int = 422) -> Answer:
    body = json.dumps({"error": error_of(kind, subject)}).encode()
    return Answer(status, body=body, kind="application/json")


def test_every_format_is_that_of_a_local_run(run: Run, stub: Stub, tmp_path: Path) -> None:
    engine = Engine.load("mobile")
    stub.answer = lambda asked: Answer(body=pages_of(engine.read(asked.file)))
    for output_format in ("text", "json", "jsonl", "tsv", "reference"):
        local, by_server = (
            run("run", DEMO, "--format", output_format, "--save-path", tmp_path / f"{number}", *more)
            for number, more in enumerate(((), ("--server", stub.url)))
        )
        assert local == by_server
        assert local.code == 0
    for saved in (tmp_path / "0").iterdir():
        assert saved.read_bytes() == (tmp_path / "1" / saved.name).read_bytes()


def test_a_bad_input_is_reported_and_the_others_are_read(run: Run, stub: Stub, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("L", (8, 8), ord(name)).save(tmp_path / f"{name}.png")
    bad = (tmp_path / "b.png").read_bytes()

    def answer(asked: Asked) -> Answer:
        return refused("InputError", "upload") if asked.file == bad else Answer(body=pages_of(page("text")))

    stub.answer = answer
    outcome = run("run", tmp_path, "--server", stub.url, "--format", "jsonl", "--workers", "2")
    assert outcome.code == 1
    assert [json.loads(row)["source"] for row in outcome.out.splitlines()] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "c.png"),
    ]
    assert outcome.err.splitlines() == [
        f"error: {tmp_path / 'b.png'}: is bad; give another",
        "done: 2 pages read, 1 failed",
    ]
    assert stub.most_at_once <= 2


def test_what_was_asked_for_travels_and_nothing_else(run: Run, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "ocr.yaml").write_text("det: {thresh: 0.2, box_thresh: 0.3}\n")
    (tmp_path / "key").write_text("secret-key\n")
    arguments = ["--config", tmp_path / "ocr.yaml", "--set", "det.thresh=0.25", "--set", "cls.enabled=true"]
    arguments += ["--pages", "1-2", "--dpi", "99", "--password", "007", "--recursive", "--all-frames"]
    assert run("run", DEMO, "--server", stub.url, "--api-key-file", tmp_path / "key", *arguments).code == 0
    assert stub.asked[0].options == {
        "det": {"thresh": 0.25, "box_thresh": 0.3},
        "cls": {"enabled": True},
        "input": {"pages": "1-2", "dpi": 99, "password": "007", "all_frames": True},
    }
    assert stub.asked[0].headers["Authorization"] == "Bearer secret-key"


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (("--model-set", "server"), "command line: models.name"),
        (("--model-dir", "m"), "command line: models.folder"),
        (("--offline",), "command line: models.offline"),
        (("--cls-model", "m"), "command line: models.cls"),
        (("--device", "cpu"), "command line: runtime.device"),
        (("--threads", "1"), "command line: runtime.threads"),
        (("--precision", "fp32"), "command line: runtime.precision"),
        (("--allow-fallback",), "command line: runtime.allow_fallback"),
        (("--set", "runtime.tf32=true"), "--set: runtime.tf32"),
        (("--warm-up",), "--warm-up"),
    ],
)
def test_what_is_the_servers_is_refused(
    run: Run, stub: Stub, arguments: tuple[str, ...], subject: str
) -> None:
    outcome = run("run", DEMO, "--server", stub.url, *arguments)
    told = "can't be chosen with --server, whose models and device are its own; leave it out"
    assert outcome == (2, "", f"error: {subject}: {told}\n")
    assert not stub.asked


def test_a_key_file_that_is_none(run: Run, tmp_path: Path) -> None:
    key = tmp_path / "key"
    for content, told in (
        (None, "can't be read (no such file"),
        (b" \n", "is empty"),
        (b"\xff", "holds no key"),
    ):
        if content is not None:
            key.write_bytes(content)
        outcome = run("run", DEMO, "--server", "http://127.0.0.1:1", "--api-key-file", key)
        assert outcome.code == 2
        assert f"error: {key}: {told}" in outcome.err
    key.write_text("two words")
    outcome = run("run", DEMO, "--server", "http://127.0.0.1:1", "--api-key-file", key)
    assert (outcome.code, "two words" in outcome.err) == (2, False)
    outcome = run("run", DEMO, "--api-key-file", key)
    assert (outcome.code, "is of use with --server only" in outcome.err) == (2, True)


def test_a_server_that_is_not_there_or_wants_a_key_is_one_line(run: Run, stub: Stub) -> None:
    outcome = run("run", DEMO, DEMO, "--server", "http://127.0.0.1:1")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.startswith("error: http://127.0.0.1:1: can't be reached (")
    stub.get = lambda *_: Answer(401)
    outcome = run("run", DEMO, DEMO, "--server", stub.url)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "wants a key" in outcome.err
    assert not stub.asked
    assert run("run", DEMO, "--server", "nonsense").code == 2


def test_an_option_that_the_server_refuses_is_usage(run: Run, stub: Stub) -> None:
    stub.answer = lambda _: refused("OptionError", "det.max_pixels")
    outcome = run("run", DEMO, DEMO, "--server", stub.url)
    assert (outcome.code, outcome.err) == (2, "error: det.max_pixels: is bad; give another\n")


def test_a_cut_answer_keeps_what_came(run: Run, stub: Stub) -> None:
    stub.answer = lambda _: Answer(body=lines_of({"page": page("first").to_dict()}, done=False))
    outcome = run("run", DEMO, "--server", stub.url, "-q")
    assert (outcome.code, outcome.out) == (1, "first\n")
    assert "broke its answer off (pages so far: 1)" in outcome.err


def test_no_model_is_loaded_and_no_onnxruntime(stub: Stub) -> None:
    code = (
        "import sys\nfrom ocr_onnx import cli\n"
        "try: cli.main(['run', sys.argv[2], '--server', sys.argv[1]])\n"
        "except SystemExit: print({'onnxruntime', 'ocr_onnx.engine'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, stub.url, str(DEMO)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a\nset()\n", "")
