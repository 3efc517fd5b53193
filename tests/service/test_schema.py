"""The service's own schema drives it: what it allows and what it does not is answered as it says."""

import json
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, DeserializationContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ocr_onnx import Engine
from tests.service.conftest import DEMO, Serve, Served, b64, pdf, png, wait_until

CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance),
]
LINES = "application/x-ndjson"
READS = ["POST /ocr", "POST /v1/read"]
TELLS = ["GET /v1/models", "GET /healthz", "GET /readyz", "GET /metrics"]
FILES = [png(), png(bars=2), png(bars=0), pdf(2)]


@schemathesis.deserializer(LINES)
def lines_of(_: DeserializationContext, response: Response) -> list[Any]:
    """Read lines of JSON as one list, which is what `strict` makes of their schema."""
    return [json.loads(line) for line in response.content.splitlines()]


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """Forbid keys that the schema does not name; for lines of JSON, tell of the list of all."""
    for form in document["components"]["schemas"].values():
        form["additionalProperties"] = False
    lines = document["paths"]["/v1/read"]["post"]["responses"]["200"]["content"][LINES]
    lines["schema"] = {"type": "array", "minItems": 1, "items": lines["schema"]}
    return document


def operations(address: str) -> dict[str, Any]:
    document = strict(httpx.get(f"{address}/openapi.json", trust_env=False).json())
    found: list[Any] = [
        one.ok()  # type: ignore[union-attr]
        for one in schemathesis.openapi.from_dict(document).get_all_operations()
    ]
    return {operation.label: operation for operation in found}


def send_cases(address: str, operation: Any, mode: GenerationMode, count: int) -> Counter[int]:
    """Send what the schema allows, or does not, and check every answer; return how many had which status."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), accept=st.sampled_from(["*/*", LINES]))
    def send(case: Case[Any], accept: str) -> None:
        headers = {"Accept": accept}
        answer = case.call_and_validate(address, headers=headers, checks=CHECKS, timeout=60)
        statuses[answer.status_code] += 1

    send()
    return statuses


def answers_still(served: Served) -> None:
    wait_until(lambda: served.service.slots.taken == 0)
    assert served.service.slots.held_bytes == 0
    answer = httpx.post(f"{served.address}/ocr", json={"file": b64(png())}, timeout=60, trust_env=False)
    assert answer.status_code == 200


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", READS)
def test_whatever_is_sent_is_answered_as_the_schema_says(
    served: Served, label: str, mode: GenerationMode
) -> None:
    statuses = send_cases(served.address, operations(served.address)[label], mode, 100)
    assert statuses.total() >= 100
    answers_still(served)


def test_what_tells_of_the_server_does_so_as_the_schema_says(serve: Serve) -> None:
    engine = Engine.load()
    with serve(lambda: engine) as served:
        found = operations(served.address)
        assert set(found) == {*READS, *TELLS}
        for label in TELLS:
            assert set(send_cases(served.address, found[label], GenerationMode.POSITIVE, 3)) == {200}
    with serve(lambda: engine, keys=["secret"]) as served:
        found = operations(served.address)
        assert set(send_cases(served.address, found["GET /v1/models"], GenerationMode.POSITIVE, 3)) == {401}


@pytest.mark.parametrize("accept", ["application/json", LINES])
@pytest.mark.parametrize("picture", ["true", "false"])
def test_results_have_the_form_that_the_schema_says(serve: Serve, accept: str, picture: str) -> None:
    """Real ones: among what is made up from the schema there is hardly a picture."""
    contents = [*FILES, DEMO.read_bytes(), b"nothing"]
    sent = [("file", (f"{number}", content)) for number, content in enumerate(contents)]
    engine = Engine.load()
    with serve(lambda: engine) as served, httpx.Client(base_url=served.address, timeout=60) as client:
        found = operations(served.address)
        read = client.post("/v1/read", files=sent, params={"picture": picture}, headers={"Accept": accept})
        assert read.headers["content-type"] == accept
        assert read.text.count('"provenance":{') == 6
        read.request.read()  # which the check wants to look at
        found["POST /v1/read"].validate_response(read)
        for content in contents[:-1]:
            answer = client.post("/ocr", json={"file": b64(content)})
            assert answer.status_code == 200
            found["POST /ocr"].validate_response(answer)
