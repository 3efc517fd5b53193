"""`POST /v1/read` and the routes beside it."""

import base64
import io
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ocr_onnx import Engine, PageResult
from ocr_onnx.service.page_files import CONTENT_SECURITY_POLICY
from ocr_onnx.service.settings import ServiceOptions
from tests.service.conftest import DEMO, Serve, fake_engine, pdf, png, wait_until

PNG = {"Content-Type": "image/png"}
NDJSON = {"Accept": "application/x-ndjson"}


def files(*contents: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", content) for content in contents]


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream; charset=binary"])
def test_a_raw_body_is_read_as_the_engine_reads_it(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/read", content=png(bars=2), headers={"Content-Type": kind})
    assert answer.status_code == 200
    assert answer.json() == {"pages": [fake_engine().read(png(bars=2)).to_dict()], "failed": []}


def test_the_models_answer_is_the_same_byte_by_byte(serve: Serve) -> None:
    """Several at a time, each on its share of the processor."""
    engine = Engine.load()
    expected = engine.read(DEMO.read_bytes()).to_dict()
    answers: list[Any] = []

    def ask(address: str) -> None:
        post = httpx.post(f"{address}/v1/read", content=DEMO.read_bytes(), headers=PNG, timeout=60)
        answers.append(post.json())

    with serve(lambda: engine) as served:
        threads = [threading.Thread(target=ask, args=(served.address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [{"pages": [expected], "failed": []}] * 4
    assert PageResult.from_dict(answers[0]["pages"][0]).lines


def test_a_pdf_has_a_page_each(client: httpx.Client) -> None:
    answer = client.post("/v1/read", content=pdf(3), headers={"Content-Type": "application/pdf"})
    assert [page["index"] for page in answer.json()["pages"]] == [0, 1, 2]


def test_several_files_come_in_order_and_bad_ones_are_told(client: httpx.Client) -> None:
    sent = files(("a.png", png()), ("bad.png", b"nothing"), ("C:\\scans\\b.pdf", pdf(2)))
    body = client.post("/v1/read", files=sent).json()
    assert [(page["source"], page["index"]) for page in body["pages"]] == [
        ("a.png", None),
        ("b.pdf", 0),
        ("b.pdf", 1),
    ]
    (failed,) = body["failed"]
    assert (failed["source"], failed["index"]) == ("bad.png", None)
    assert set(failed["error"]) == {"kind", "subject", "problem", "remedy"}
    assert (failed["error"]["kind"], failed["error"]["subject"]) == ("InputError", "bad.png")


def test_a_page_that_fails_is_told_with_its_number(client: httpx.Client) -> None:
    pages = [Image.new("1", size, 1) for size in ((60, 60), (2000, 1000), (60, 60))]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    body = client.post("/v1/read", files=files(("scan.tif", stream.getvalue()))).json()
    assert [page["index"] for page in body["pages"]] == [0, 2]
    (failed,) = body["failed"]
    assert (failed["source"], failed["index"], failed["error"]["kind"]) == ("scan.tif", 1, "TooLargeError")


def test_lines_come_page_by_page_while_others_are_read(serve: Serve) -> None:
    sent = files(("a.pdf", pdf(2)), ("bad.png", b"nothing"))
    with (
        serve() as served,
        httpx.stream("POST", f"{served.address}/v1/read", files=sent, headers=NDJSON) as answer,
    ):
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
        assert [next(iter(line)) for line in lines] == ["page", "page", "failed", "done"]
        assert lines[1]["page"]["index"] == 1
        assert lines[2]["failed"]["source"] == "bad.png"
        assert lines[3] == {"done": {"pages": 2, "failed": 1}}
        wait_until(lambda: served.service.slots.taken == 0)


def test_the_picture_is_sent_when_asked_for(client: httpx.Client) -> None:
    for answer in (
        client.post("/v1/read", params={"picture": "true"}, content=png(), headers=PNG),
        client.post("/v1/read", data={"picture": "true"}, files=files(("a.png", png()))),
    ):
        (page,) = answer.json()["pages"]
        with Image.open(io.BytesIO(base64.b64decode(page.pop("picture")))) as drawn:
            assert (drawn.format, drawn.size) == ("JPEG", (512, 128))
        assert PageResult.from_dict(page).lines
    (page,) = client.post("/v1/read", params={"picture": "false"}, content=png(), headers=PNG).json()["pages"]
    assert "picture" not in page


def test_options_hold_for_their_request_alone(client: httpx.Client) -> None:
    options = {"options": json.dumps({"rec": {"drop_score": 0.999}, "input": {"pages": "2"}})}
    changed = client.post("/v1/read", data=options, files=files(("a.pdf", pdf(2)))).json()
    assert [(page["index"], page["filtered"], page["lines"]) for page in changed["pages"]] == [(1, 1, [])]
    plain = client.post("/v1/read", files=files(("a.pdf", pdf(2)))).json()
    assert [(page["index"], page["filtered"]) for page in plain["pages"]] == [(0, 0), (1, 0)]


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ("{", "options"),
        ("[]", "options"),
        ('{"models": {"det": "/etc/passwd"}}', "options.models"),
        ('{"runtime": {"device": "cuda"}}', "options.runtime"),
        ('{"det": 7}', "det"),
        ('{"det": {"tresh": 0.5}}', "det.tresh"),
        ('{"det": {"thresh": "high"}}', "det.thresh"),
        ('{"det": {"thresh": 7}}', "det.thresh"),
        ('{"det": {"max_pixels": 16000001}}', "det.max_pixels"),
        ('{"rec": {"batch_size": 7}}', "rec.batch_size"),
        ('{"input": {"max_bytes": 2000001}}', "input.max_bytes"),
        ('{"input": {"max_pixels": 1000001}}', "input.max_pixels"),
        ('{"input": {"max_pages": 13}}', "input.max_pages"),
        ('{"input": {"pages": "0"}}', "input.pages"),
        ('{"input": {"password": "\\ud800"}}', "input.password"),
        ('{"cls": {"enabled": true}}', "cls.enabled"),
    ],
)
def test_options_that_can_not_be_honoured_are_refused(
    client: httpx.Client, options: str, subject: str
) -> None:
    answer = client.post("/v1/read", params={"options": options}, content=png(), headers=PNG)
    _is_failure(answer, 422, subject)


def _is_failure(answer: httpx.Response, status: int, subject: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"kind", "subject", "problem", "remedy", "requestId"}
    assert body["error"]["subject"] == subject
    assert body["error"]["requestId"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text


def test_fields_of_the_query_hold_beside_a_form(client: httpx.Client) -> None:
    sent = files(("a.png", png()))
    query = {"picture": "true", "options": '{"rec": {"drop_score": 0.999}}'}
    (page,) = client.post("/v1/read", params=query, files=sent).json()["pages"]
    assert (page["filtered"], "picture" in page) == (1, True)
    twice = client.post("/v1/read", params=query, data={"picture": "true"}, files=sent)
    _is_failure(twice, 422, "picture")
    _is_failure(client.post("/v1/read", params={"pictures": "true"}, files=sent), 422, "pictures")
    _is_failure(client.post("/v1/read", data={"option": "{}"}, files=sent), 422, "option")
    nameless = client.post("/v1/read", files=[*sent, *files(("", png()))])
    _is_failure(nameless, 422, "file")
    assert nameless.json()["error"]["problem"] == "has no file name"


def test_limits_may_be_lowered(client: httpx.Client) -> None:
    options = '{"input": {"max_pixels": 100}, "det": {"max_pixels": 1024}}'
    body = client.post("/v1/read", params={"options": options}, content=png(), headers=PNG).json()
    assert body["failed"][0]["error"]["kind"] == "TooLargeError"


def test_bad_requests_are_told_as_a_whole(client: httpx.Client) -> None:
    _is_failure(client.post("/v1/read"), 415, "Content-Type")
    _is_failure(client.post("/v1/read", json={}), 415, "Content-Type")
    _is_failure(client.post("/v1/read", headers=PNG), 422, "body")
    _is_failure(client.post("/v1/read", params={"picture": "1"}, content=png(), headers=PNG), 422, "picture")
    _is_failure(client.post("/v1/read", files=[("other", ("a.png", png()))]), 422, "file")
    form = {"Content-Type": "multipart/form-data"}
    _is_failure(client.post("/v1/read", content=b"--x", headers=form), 422, "body")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    _is_failure(client.post("/v1/read", content=b"nonsense", headers=form), 422, "body")
    _is_failure(client.get("/v1/read"), 405, "method")
    _is_failure(client.get("/v1/other"), 404, "route")


def test_too_many_files_are_refused(serve: Serve) -> None:
    with serve(options=ServiceOptions(max_files=2)) as served:
        sent = files(*[("a.png", png())] * 3)
        _is_failure(httpx.post(f"{served.address}/v1/read", files=sent), 413, "body")


def test_the_models_are_told(serve: Serve) -> None:
    engine = Engine.load()
    used = engine.provenance
    assert used is not None
    with serve(lambda: engine) as served:
        answer = httpx.get(f"{served.address}/v1/models").json()
    assert answer["name"] == "fake"
    assert [f"{model['name']}@{model['sha256']}" for model in answer["models"]] == [
        model for _, model in used.models
    ]
    assert [model["stage"] for model in answer["models"]] == ["det", "rec"]
    assert (answer["device"], answer["provider"]) == ("cpu", used.provider)
    assert (answer["version"], answer["precision"]) == (used.version, "fp32")


def test_metrics_count(client: httpx.Client) -> None:
    client.post("/v1/read", content=png(bars=2), headers=PNG)
    client.post("/ocr", json={"file": "?"})
    client.get("/nothing/at/all")
    text = client.get("/metrics").text
    for line in (
        'ocr_onnx_requests_total{route="/v1/read",status="200"} 1.0',
        'ocr_onnx_requests_total{route="/ocr",status="422"} 1.0',
        'ocr_onnx_requests_total{route="unknown",status="404"} 1.0',
        'ocr_onnx_errors_total{kind="RequestError"} 2.0',
        "ocr_onnx_pages_total 1.0",
        "ocr_onnx_lines_total 2.0",
        "ocr_onnx_requests_under_way 0.0",
        'ocr_onnx_batch_rows_count{stage="det"} 1.0',
        'ocr_onnx_batch_rows_sum{stage="rec"} 2.0',
        'ocr_onnx_stage_seconds_count{stage="read"} 1.0',
    ):
        assert line in text.splitlines(), line


def test_the_schema_tells_of_both_routes_with_examples(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/ocr", "/v1/read", "/v1/models", "/healthz", "/readyz", "/metrics"} == set(schema["paths"])
    ocr = schema["paths"]["/ocr"]["post"]
    assert "file" in ocr["requestBody"]["content"]["application/json"]["example"]
    assert {"200", "413", "422", "503", "504"} <= set(ocr["responses"])
    assert "multipart/form-data" in schema["paths"]["/v1/read"]["post"]["requestBody"]["content"]


def test_the_page_is_served_under_a_strict_policy(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html>", encoding="utf-8")
    (folder / "app.js").write_text("1", encoding="utf-8")
    (folder / "secret.py").write_text("1", encoding="utf-8")
    (tmp_path / "outside.js").write_text("1", encoding="utf-8")
    with serve(page=folder) as served, httpx.Client(base_url=served.address) as client:
        index = client.get("/")
        assert (index.status_code, index.text) == (200, "<!doctype html>")
        assert index.headers["content-type"].startswith("text/html")
        script = client.get("/static/app.js")
        assert script.headers["content-type"].startswith("text/javascript")
        for answer in (index, script):
            assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
        for path in ("secret.py", "none.js", "../outside.js", "%2e%2e/outside.js", "..%2foutside.js", "."):
            assert client.get(f"/static/{path}").status_code == 404


def test_without_the_page_there_is_none(serve: Serve, tmp_path: Path) -> None:
    with serve(page=tmp_path / "none") as served:
        assert httpx.get(served.address).status_code == 404
        assert httpx.get(f"{served.address}/static/app.js").status_code == 404
