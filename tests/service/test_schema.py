"""The service's own schema drives it: what it allows and what it does not is answered as it says."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.conftest import Served, b64, png, wait_until

CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance),
]
READS = ["POST /ocr", "POST /v1/read"]
TELLS = ["GET /v1/models", "GET /healthz", "GET /readyz", "GET /metrics"]
REQUESTS = {"POST /ocr": 150, "POST /v1/read": 150}


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, GenerationMode.POSITIVE) for label in READS + TELLS),
        *((label, GenerationMode.NEGATIVE) for label in READS),
    ],
)
def test_answers_are_as_the_schema_says(served: Served, label: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{served.address}/openapi.json")
    operations: list[Any] = [one.ok() for one in schema.get_all_operations()]  # type: ignore[union-attr]
    found = {operation.label: operation for operation in operations}
    assert set(found) == {*READS, *TELLS}
    statuses: list[int] = []

    @settings(
        max_examples=REQUESTS.get(label, 3),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=found[label].as_strategy(generation_mode=mode))
    def send(case: Case[Any]) -> None:
        statuses.append(case.call_and_validate(checks=CHECKS, timeout=60).status_code)

    send()
    assert len(statuses) >= REQUESTS.get(label, 1)
    wait_until(lambda: served.service.slots.taken == 0)
    answer = httpx.post(f"{served.address}/ocr", json={"file": b64(png())}, timeout=60, trust_env=False)
    assert answer.status_code == 200
