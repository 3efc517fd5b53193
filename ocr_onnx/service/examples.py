"""What `/openapi.json` says of bodies and answers, which the routes read and write themselves."""

from typing import Any, Final, TypeAlias

from ocr_onnx.service.answers import (
    Alive,
    FailedPage,
    Failure,
    Models,
    NotReady,
    OcrAnswer,
    OcrFailure,
    ReadAnswer,
    ReadPage,
    Ready,
)

Responses: TypeAlias = dict[int | str, dict[str, Any]]
"""Status to what FastAPI's `responses` takes."""

OCR_REQUEST: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "description": "URL or base64 of a picture or PDF"},
                        "fileType": {"enum": [0, 1, None], "description": "0 PDF, 1 image"},
                        "inferenceParams": {
                            "type": ["object", "null"],
                            "properties": {"maxLongSide": {"type": ["integer", "null"], "minimum": 32}},
                        },
                    },
                },
                "example": {"file": "iVBORw0KGgo...", "fileType": 1, "inferenceParams": {"maxLongSide": 960}},
            }
        },
    },
}

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_FIELDS: Final[dict[str, Any]] = {
    "options": {
        "type": "string",
        "description": "JSON object of options by section: input, det, crop, cls, rec",
        "example": '{"det": {"box_thresh": 0.5}, "input": {"pages": "1-3"}}',
    },
    "picture": {"type": "string", "enum": ["true", "false"], "default": "false"},
}

READ_REQUEST: Final[dict[str, Any]] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in _FIELDS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BINARY,
            "application/pdf": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        **_FIELDS,
                    },
                }
            },
        },
    },
}

_WORDS: Final = {
    401: "The API key is missing or wrong.",
    408: "The body took too long.",
    413: "Too many bytes, pixels, pages, files or values.",
    415: "Another Content-Type is needed, and no Content-Encoding.",
    422: "The request or what it holds can't be read.",
    500: "The server failed; its log tells why.",
    501: "The server lacks a reader, for PDF files say.",
    503: "The server is busy, loading or stopping; see Retry-After.",
    504: "The request took too long.",
}


def _failures(form: type, *statuses: int) -> Responses:
    return {status: {"description": _WORDS[status], "model": form} for status in statuses}


def _ref(form: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{form.__name__}"}


def _one_key(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: schema}, "additionalProperties": False}


_COUNTS: Final = {
    "type": "object",
    "required": ["pages", "failed"],
    "properties": {"pages": {"type": "integer"}, "failed": {"type": "integer"}},
}
_LINES: Final = {
    "description": "A line of JSON for each page as it is done, then one that counts them.",
    "oneOf": [
        _one_key("page", _ref(ReadPage)),
        _one_key("failed", _ref(FailedPage)),
        _one_key("done", _COUNTS),
    ],
}
_OCR_EXAMPLE: Final = {
    "logId": "7ab1c4b5-6f8a-4f6c-9a51-2f3f4c5d6e7f",
    "errorCode": 0,
    "errorMsg": "Success",
    "result": {
        "ocrResults": [
            {
                "texts": [
                    {
                        "poly": [[421, 25], [659, 19], [660, 59], [422, 64]],
                        "text": "BOARDING",
                        "score": 0.985,
                    }
                ],
                "image": "/9j/4AAQSkZJRg...",
            }
        ],
        "dataInfo": {"width": 903, "height": 512, "type": "image"},
    },
}

OCR_ANSWERS: Final[Responses] = {
    200: {
        "description": "The text of every page.",
        "model": OcrAnswer,
        "content": {"application/json": {"example": _OCR_EXAMPLE}},
    },
    **_failures(OcrFailure, *_WORDS),
}
READ_ANSWERS: Final[Responses] = {
    200: {
        "description": "Every page's result and what could not be read, or a line of JSON for each.",
        "model": ReadAnswer,
        "content": {"application/x-ndjson": {"schema": _LINES}},
    },
    **_failures(Failure, *_WORDS),
}
MODELS_ANSWERS: Final[Responses] = {
    200: {"description": "The models and what runs them.", "model": Models},
    **_failures(Failure, 401, 503),
}
HEALTH_ANSWERS: Final[Responses] = {200: {"description": "The process answers.", "model": Alive}}
READINESS_ANSWERS: Final[Responses] = {
    200: {"description": "Requests are taken.", "model": Ready},
    503: {"description": "The models are loading, or the server is stopping.", "model": NotReady},
}
METRICS_ANSWERS: Final[Responses] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
    **_failures(OcrFailure, 401),
}
