"""`ocr-onnx run` with the real engine and models: the demo page, and every bad input there can be."""

import functools
import io
import json
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocr_onnx import model_store
from ocr_onnx.options import ModelOptions
from tests.conftest import Outcome, Run

DEMO = Path(__file__).parent / "data" / "boarding-pass.png"


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call `ocr-onnx run` with nothing from the user's surroundings."""
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("OCR_ONNX_MODEL_DIR", "OCR_ONNX_OFFLINE", "OCR_ONNX_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    return functools.partial(run, "run")


def model(stage: str) -> Path:
    path: Path = getattr(model_store.resolve(ModelOptions(offline=True)), stage).path
    return path


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(stream, "PNG")
    return stream.getvalue()


def bomb() -> bytes:
    """Return a PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def cut_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()[:5000]


def encrypted_pdf() -> bytes:
    """Return a PDF whose keys fit no password."""
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>",
        b"<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>" % (b"1" * 64, b"2" * 64),
    )
    content, offsets = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"<</Size 5/Root 1 0 R/Encrypt 4 0 R/ID[<00><00>]>>"
    return content + b"xref\n0 5\n0000000000 65535 f \n%strailer\n%s\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        trailer,
        len(content),
    )


def test_the_demo_page(run: Run, tmp_path: Path) -> None:
    outcome = run(DEMO, "--save-path", tmp_path / "out")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert {"登机牌", "BOARDING", "TAIYUAN", "ZHANGQIWEI", "张祺伟"} <= set(lines)
    saved = json.loads((tmp_path / "out").glob("*.json").__next__().read_text(encoding="utf-8"))
    assert [text for text in saved["rec_text"] if text] == lines
    with Image.open(next((tmp_path / "out").glob("*.png"))) as drawn, Image.open(DEMO) as page:
        assert drawn.size == (page.width * 2, page.height)


def test_a_classifier_that_is_switched_off_is_not_switched_on(run: Run) -> None:
    outcome = run(DEMO, "--cls-model", model("cls"), "--set", "cls.enabled=false")
    assert outcome.code == 2
    assert "models.cls" in outcome.err


def test_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(DEMO.read_bytes())))
    outcome = run("-", "--format", "jsonl", "--cls-model", model("cls"))
    result = json.loads(outcome.out)
    assert outcome.code == 0
    assert result["source"] == "<stdin>"
    assert "登机牌" in [line["text"] for line in result["lines"]]
    assert set(result["provenance"]["models"]) == {"det", "cls", "rec"}


def test_good_pages_are_read_beside_a_bad_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(60, 40))
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").write_bytes(png(60, 40))
    outcome = run(tmp_path, "--format", "jsonl", "--workers", "2")
    assert outcome.code == 1
    assert [Path(json.loads(row)["source"]).name for row in outcome.out.splitlines()] == ["a.png", "c.png"]
    first, last = outcome.err.splitlines()
    assert first.startswith(f"error: {tmp_path / 'b.png'}: is empty")
    assert last == "done: 2 pages read, 1 failed"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_pages_hold_no_text_and_are_no_error(
    run: Run, tmp_path: Path, width: int, height: int
) -> None:
    file = tmp_path / "page.png"
    file.write_bytes(png(width, height))
    outcome = run(file, "--format", "json", "--quiet")
    (result,) = json.loads(outcome.out)
    assert (result["width_px"], result["height_px"], result["lines"]) == (width, height, [])
    assert (outcome.code, outcome.err) == (0, "")


def assert_one_line(outcome: Outcome, subject: object, code: int = 1) -> None:
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: {subject}")
    assert outcome.err.count("\n") == 1
    assert "; " in outcome.err  # the remedy
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.jpg", cut_jpeg()),
        ("zero.png", b""),
        ("text.png", b"just some words\n" * 10),
        ("bomb.png", bomb()),
        ("encrypted.pdf", encrypted_pdf()),
        ("broken.pdf", b"%PDF-1.7\nnothing of a PDF"),
    ],
)
def test_a_bad_file_is_one_line(run: Run, tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    assert_one_line(run(file), file)


def test_a_missing_file_is_one_line(run: Run, tmp_path: Path) -> None:
    assert_one_line(run(tmp_path / "no.png"), tmp_path / "no.png")


@pytest.mark.parametrize("name", ["x" * 5000, "a\nb.png", "", "ftp://host/page.png", "no*.png"])
def test_a_name_that_can_be_no_file_is_one_line(run: Run, name: str) -> None:
    assert_one_line(run(name), "")


def test_a_folder_without_images_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert_one_line(run(tmp_path), tmp_path)


def test_wrong_pages_are_a_usage_error(run: Run) -> None:
    assert_one_line(run(DEMO, "--pages", "3-1"), "", code=2)


class Redirect(BaseHTTPRequestHandler):
    """Send everyone to a local file."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", DEMO.as_uri())
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent."""


@pytest.fixture
def redirect() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Redirect) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/page.png"
        server.shutdown()
        thread.join()


def test_a_redirect_to_a_file_is_one_line(run: Run, redirect: str) -> None:
    assert_one_line(run(redirect), redirect)


def test_a_dead_address_is_one_line(run: Run) -> None:
    with HTTPServer(("127.0.0.1", 0), Redirect) as server:
        address = f"http://127.0.0.1:{server.server_port}/page.png"
    assert_one_line(run(address), address)


def test_a_model_that_is_not_onnx_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "det.onnx"
    file.write_bytes(b"not a model")
    assert_one_line(run(DEMO, "--det-model", file), "")
    assert_one_line(run(DEMO, "--det-model", tmp_path / "no.onnx"), tmp_path / "no.onnx")


@pytest.mark.parametrize(
    ("option", "stage"), [("--det-model", "rec"), ("--rec-model", "det"), ("--cls-model", "det")]
)
def test_a_model_of_another_stage_is_one_line(run: Run, option: str, stage: str) -> None:
    assert_one_line(run(DEMO, option, model(stage)), model(stage))


def test_a_dictionary_of_the_wrong_length_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "dict.txt"
    file.write_text("a\nb\nc\n")
    outcome = run(DEMO, "--rec-model", model("rec"), "--dict", file)
    assert_one_line(outcome, "")
    assert "6623" in outcome.err


def test_a_corrupted_cache_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "ppocrv4-server-det.onnx"
    file.parent.mkdir()
    file.write_bytes(b"half a download")
    assert_one_line(run(DEMO, "--model-set", "server", "--offline"), file)


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:0,0", "cuda:0,"])
def test_what_is_no_device_is_a_usage_error(run: Run, device: str) -> None:
    assert_one_line(run(DEMO, "--device", device), "runtime.device", code=2)


def test_a_device_that_cant_be_used_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert_one_line(run(DEMO, "--device", "gpu:0"), "cuda:0")


def test_a_picture_that_pillow_warns_of_is_one_line_still(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0garbage")
    command = [sys.executable, "-c", "from ocr_onnx.cli import main; main()", "run", str(broken)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {broken}: ")
    assert done.stderr.count("\n") == 1
