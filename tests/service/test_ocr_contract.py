"""`POST /ocr` against the reference document: every field of its tables, every error, its own client."""

import base64
import io
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ocr_onnx import Engine
from tests.service.conftest import DEMO, Serve, b64, dark, encoded, fake_engine, pdf, png

# The lines of the reference document's client, which have to run as they are but for the port.
REFERENCE_CLIENT = """
import base64
import requests
API_URL = "http://localhost:8080/ocr"
file_path = "./demo.jpg"
with open(file_path, "rb") as file:
    file_bytes = file.read()
    file_data = base64.b64encode(file_bytes).decode("ascii")
payload = {"file": file_data, "fileType": 1}
response = requests.post(API_URL, json=payload)
assert response.status_code == 200
result = response.json()["result"]
for i, res in enumerate(result["ocrResults"]):
    print("Detected texts:")
    print(res["texts"])
    output_img_path = f"out_{i}.jpg"
    with open(output_img_path, "wb") as f:
        f.write(base64.b64decode(res["image"]))
    print(f"Output image saved at {output_img_path}")
"""


def ocr(client: httpx.Client, **fields: Any) -> Any:
    return client.post("/ocr", json=fields)


def test_the_reference_documents_client_runs_unchanged(serve: Serve, tmp_path: Path) -> None:
    with Image.open(DEMO) as picture:
        picture.convert("RGB").save(tmp_path / "demo.jpg", quality=95)
    with serve(Engine.load) as served:
        script = REFERENCE_CLIENT.replace("http://localhost:8080", served.address)
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.stderr == ""
    assert "'text': 'BOARDING'" in done.stdout
    assert "Output image saved at out_0.jpg" in done.stdout
    with Image.open(tmp_path / "out_0.jpg") as drawn, Image.open(DEMO) as page:
        assert drawn.format == "JPEG"
        assert drawn.size == (2 * page.width, page.height)


def test_every_field_of_an_answer_for_an_image(client: httpx.Client) -> None:
    answer = ocr(client, file=b64(png(bars=2)), fileType=1)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"logId", "errorCode", "errorMsg", "result"}
    assert uuid.UUID(body["logId"]).version == 4
    assert body["logId"] == answer.headers["x-request-id"]
    assert (body["errorCode"], body["errorMsg"]) == (0, "Success")
    assert set(body["result"]) == {"ocrResults", "dataInfo"}
    assert body["result"]["dataInfo"] == {"width": 256, "height": 128, "type": "image"}
    (page,) = body["result"]["ocrResults"]
    assert set(page) == {"texts", "image"}
    assert len(page["texts"]) == 2
    for text in page["texts"]:
        assert set(text) == {"poly", "text", "score"}
        assert text["text"] == "a"
        assert 0 < text["score"] < 1
        assert len(text["poly"]) == 4
        assert all(type(side) is int for point in text["poly"] for side in point)
    with Image.open(io.BytesIO(base64.b64decode(page["image"]))) as drawn:
        assert (drawn.format, drawn.size) == ("JPEG", (512, 128))


def test_an_answer_is_the_engines_to_the_last_digit(client: httpx.Client) -> None:
    reference = fake_engine().read(png(bars=2)).to_reference()
    (page,) = ocr(client, file=b64(png(bars=2))).json()["result"]["ocrResults"]
    assert [text["poly"] for text in page["texts"]] == reference["dt_polys"]
    assert [text["score"] for text in page["texts"]] == reference["rec_score"]


def test_a_page_without_text_has_no_texts(client: httpx.Client) -> None:
    (page,) = ocr(client, file=b64(png(bars=0))).json()["result"]["ocrResults"]
    assert page["texts"] == []


@pytest.mark.parametrize(("count", "file_type"), [(1, 0), (3, None), (12, 0)])
def test_of_a_pdf_the_first_ten_pages_are_read(
    client: httpx.Client, count: int, file_type: int | None
) -> None:
    answer = ocr(client, file=b64(pdf(count)), fileType=file_type)
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    assert len(result["ocrResults"]) == min(count, 10)
    assert all(len(page["texts"]) == 1 for page in result["ocrResults"])
    info = result["dataInfo"]
    assert set(info) == {"numPages", "pages", "type"}
    assert (info["numPages"], info["type"]) == (count, "pdf")
    assert info["pages"] == [{"width": 300, "height": 200}] * min(count, 10)


def test_of_a_picture_with_several_pages_the_first_is_read(client: httpx.Client) -> None:
    pages = [Image.fromarray(np.full((60, width), 255, np.uint8)) for width in (50, 70)]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    result = ocr(client, file=b64(stream.getvalue()), fileType=1).json()["result"]
    assert result["dataInfo"] == {"width": 50, "height": 60, "type": "image"}


@pytest.mark.parametrize(
    ("longest", "expected"), [(None, 256), (128, 128), (64, 64), (1000, 256), (10**30, 256)]
)
def test_max_long_side_shrinks_what_is_larger(serve: Serve, longest: int | None, expected: int) -> None:
    seen: list[int] = []

    def watched(images: Any) -> Any:
        seen.append(max(images.shape[1:3]))
        return dark(images)

    with serve(lambda: fake_engine(det=watched)) as served:
        parameters = {"maxLongSide": longest}
        sent = {"file": b64(png()), "inferenceParams": parameters}
        assert httpx.post(f"{served.address}/ocr", json=sent).status_code == 200
    assert max(seen) == expected


def test_fields_that_the_contract_does_not_know_are_left_alone(client: httpx.Client) -> None:
    answer = ocr(client, file=b64(png()), fileType=1, visualize=None, useTextlineOrientation=False)
    assert answer.status_code == 200


@pytest.mark.parametrize("name", ["file", "fileType", "inferenceParams"])
def test_empty_optional_fields_are_as_good_as_none(client: httpx.Client, name: str) -> None:
    answer = ocr(client, **{"file": b64(png()), name: None})
    assert answer.status_code == (422 if name == "file" else 200)


@pytest.mark.parametrize("breaks", ["\n", "\r\n", " "])
def test_base64_may_be_broken_into_lines(client: httpx.Client, breaks: str) -> None:
    text = re.sub("(.{76})", rf"\1{breaks}", b64(png()))
    assert ocr(client, file=text).status_code == 200


def bad_requests() -> dict[str, tuple[Any, int, str]]:
    good = b64(png())
    wide = Image.new("1", (2000, 1000))
    return {
        "no object": ([good], 422, "body"),
        "no file": ({}, 422, "file"),
        "empty file": ({"file": ""}, 422, "file"),
        "file is a number": ({"file": 7}, 422, "file"),
        "no base64": ({"file": "not base64!"}, 422, "base64"),
        "no padding": ({"file": good.rstrip("=")[:-1]}, 422, "base64"),
        "other letters": ({"file": "é" * 8}, 422, "base64"),
        "half a surrogate": ({"file": "\ud800aaa"}, 422, "base64"),
        "no picture": ({"file": b64(b"no picture at all")}, 422, "no picture and no PDF"),
        "cut off": ({"file": b64(png()[:100])}, 422, "can't be decoded"),
        "blanks": ({"file": "    "}, 422, "empty"),
        "file type 2": ({"file": good, "fileType": 2}, 422, "fileType"),
        "file type true": ({"file": good, "fileType": True}, 422, "fileType"),
        "file type text": ({"file": good, "fileType": "1"}, 422, "fileType"),
        "no pdf": ({"file": good, "fileType": 0}, 422, "is no PDF"),
        "a pdf": ({"file": b64(pdf(1)), "fileType": 1}, 422, "is a PDF"),
        "broken pdf": ({"file": b64(b"%PDF-1.4 nothing"), "fileType": 0}, 422, "is a PDF that can't be read"),
        "parameters": ({"file": good, "inferenceParams": []}, 422, "inferenceParams"),
        "no side": ({"file": good, "inferenceParams": {"maxLongSide": 0}}, 422, "maxLongSide"),
        "half a side": ({"file": good, "inferenceParams": {"maxLongSide": 0.5}}, 422, "maxLongSide"),
        "side is true": ({"file": good, "inferenceParams": {"maxLongSide": True}}, 422, "maxLongSide"),
        "side too short": ({"file": good, "inferenceParams": {"maxLongSide": 31}}, 422, "maxLongSide"),
        "address": ({"file": "http://127.0.0.1/a.png"}, 422, "fetches none"),
        "address in capitals": ({"file": "HTTPS://example.org/a.png"}, 422, "fetches none"),
        "too many bytes": ({"file": b64(bytes(2_000_001))}, 413, "larger than the limit"),
        "too many pixels": ({"file": b64(encoded(wide, "PNG"))}, 413, "more than the limit"),
    }


BAD_REQUESTS = bad_requests()


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_what_is_wrong_with_a_request_is_told_in_the_envelope(client: httpx.Client, name: str) -> None:
    request, status, words = BAD_REQUESTS[name]
    answer = client.post("/ocr", content=_json(request), headers={"Content-Type": "application/json"})
    _is_failure(answer, status)
    assert words in answer.json()["errorMsg"]


def _json(request: Any) -> bytes:
    return json.dumps(request).encode()


def _is_failure(answer: Any, status: int) -> None:
    body = answer.json()
    assert answer.status_code == status, body
    assert set(body) == {"logId", "errorCode", "errorMsg"}
    assert body["errorCode"] == status
    assert uuid.UUID(body["logId"]).version == 4
    assert "Traceback" not in answer.text
    assert str(Path(__file__).parents[2]) not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b'{"file": ' + b"[" * 9_000, 422),
        (b'{"file": ' + b"[" * 100_000, 413),
        (b'{"fileType": ' + b"1" * 5000 + b"}", 422),
        (b'{"file": NaN}', 422),
    ],
)
def test_a_body_that_is_no_json_is_told_too(client: httpx.Client, body: bytes, status: int) -> None:
    _is_failure(client.post("/ocr", content=body, headers={"Content-Type": "application/json"}), status)


def test_another_content_type_is_refused(client: httpx.Client) -> None:
    _is_failure(client.post("/ocr", content=b'{"file": "a"}', headers={"Content-Type": "text/plain"}), 415)
    _is_failure(client.post("/ocr"), 415)


def test_unknown_routes_and_methods_answer_in_the_envelope(client: httpx.Client) -> None:
    _is_failure(client.get("/nothing"), 404)
    _is_failure(client.get("/ocr"), 405)
    _is_failure(client.put("/ocr"), 405)
    assert client.get("/ocr").headers["allow"] == "POST"
