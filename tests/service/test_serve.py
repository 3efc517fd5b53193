"""`ocr-onnx serve` as a user starts and stops it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ocr_onnx.cli.serve import read_keys
from ocr_onnx.errors import OptionError
from ocr_onnx.service.settings import ServiceOptions
from tests.conftest import Run
from tests.service.conftest import DEMO, pdf, wait_until

COMMAND = [sys.executable, "-c", "from ocr_onnx import cli; cli.main()", "serve"]
NDJSON = {"Accept": "application/x-ndjson"}


def test_it_serves_until_told_to_stop(tmp_path: Path) -> None:
    log = tmp_path / "log"
    keys = tmp_path / "keys"
    keys.write_text("# one key\nsecret\n", encoding="utf-8")
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [*COMMAND, "--port", "0", "--offline", "--api-key-file", keys], stderr=stream
        )
    try:
        wait_until(lambda: b'"ready"' in log.read_bytes())
        listening = json.loads(log.read_text(encoding="utf-8").splitlines()[0])
        assert listening["host"] == "127.0.0.1"
        address = f"http://127.0.0.1:{listening['port']}"
        headers = {"Content-Type": "image/png", "X-API-Key": "secret"}
        answer = httpx.post(f"{address}/v1/read", content=DEMO.read_bytes(), headers=headers, timeout=60)
        assert "BOARDING" in answer.text
        assert httpx.get(f"{address}/v1/models").status_code == 401
        models = httpx.get(f"{address}/v1/models", headers=headers).json()
        assert models["name"] == "mobile"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.wait()
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [line["route"] for line in lines if line["message"] == "request"] == [
        "/v1/read",
        "/v1/models",
        "/v1/models",
    ]
    assert "secret" not in log.read_text(encoding="utf-8")
    assert "BOARDING" not in log.read_text(encoding="utf-8")


def test_a_server_that_was_killed_leaves_nobody_waiting_and_comes_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen([*COMMAND, "--port", "0", "--offline"], stderr=stream)
    wait_until(lambda: b'"ready"' in log.read_bytes())
    port = json.loads(log.read_text(encoding="utf-8").splitlines()[0])["port"]
    address = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200
        with client.stream(
            "POST", "/v1/read", files=[("file", ("a.pdf", pdf(12)))], headers=NDJSON
        ) as answer:
            server.kill()
            with pytest.raises(httpx.TransportError):
                list(answer.iter_lines())
        server.wait()
        with pytest.raises(httpx.ConnectError):
            client.get("/readyz")
    assert "Traceback" not in log.read_text(encoding="utf-8")
    again = tmp_path / "again"
    with again.open("wb") as stream:
        server = subprocess.Popen([*COMMAND, "--port", str(port), "--offline"], stderr=stream)
    try:
        wait_until(lambda: b'"ready"' in again.read_bytes())
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "70000"), "--port"),
        (("--set", "det.tresh=1"), "error: --set: det.tresh: is not a known key"),
        (("--max-requests", "0"), "error: service.max_requests: 0 is out of range"),
        (("--url-hosts", "example.org"), "error: --url-hosts: was given without --allow-urls"),
        (("--api-key-file", "none"), "error: none: can't be read as text"),
        (("--host", "203.0.113.1"), "error: 203.0.113.1:8080: can't be listened on"),
    ],
)
def test_wrong_usage_exits_with_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    outcome = run("serve", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_file_without_keys_is_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# none\n\n", encoding="utf-8")
    outcome = run("serve", "--api-key-file", file)
    assert outcome.code == 2
    assert "holds no key" in outcome.err


def test_keys_are_read_whatever_editor_wrote_them(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbfsecret\r\n# other\r\nmore\r\n")
    assert read_keys(file) == ("secret", "more")
    file.write_text("schlüssel\n", encoding="utf-8")
    with pytest.raises(OptionError, match="not plain ASCII"):
        read_keys(file)


def test_a_model_set_that_is_none_ends_it(run: Run) -> None:
    outcome = run("serve", "--port", "0", "--model-set", "huge", "--offline")
    assert outcome.code == 1
    assert "error: model set 'huge': is in no manifest" in outcome.err


def test_without_the_extra_it_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fastapi" else object())
    outcome = run("serve")
    assert (outcome.code, outcome.err) == (
        1,
        "error: fastapi: is not installed; install 'ocr-onnx[serve]'\n",
    )


@pytest.mark.parametrize("values", [{"max_requests": 0}, {"body_timeout_s": 0}, {"allow_urls": "yes"}])
def test_options_are_checked(values: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"service\."):
        ServiceOptions(**values)  # type: ignore[arg-type]
