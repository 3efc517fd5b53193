"""What `/openapi.json` says of bodies and answers that the routes read and write themselves."""

from typing import Any, Final

_ENVELOPE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["logId", "errorCode", "errorMsg"],
    "properties": {
        "logId": {"type": "string", "format": "uuid"},
        "errorCode": {"type": "integer"},
        "errorMsg": {"type": "string"},
    },
}
_NULLABLE_INDEX: Final[dict[str, Any]] = {
    "type": ["integer", "null"],
    "description": "Zero-based page; null where the file is one picture.",
}
_TOLD: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["kind", "subject", "problem", "remedy"],
    "properties": {name: {"type": "string"} for name in ("kind", "subject", "problem", "remedy")},
}
_FAILURE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            **_TOLD,
            "required": [*_TOLD["required"], "requestId"],
            "properties": {**_TOLD["properties"], "requestId": {"type": "string", "format": "uuid"}},
        }
    },
}
_POLYGON: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
}
_SUCCESS: Final[dict[str, Any]] = {
    **_ENVELOPE,
    "required": [*_ENVELOPE["required"], "result"],
    "properties": {
        **_ENVELOPE["properties"],
        "result": {
            "type": "object",
            "required": ["ocrResults", "dataInfo"],
            "properties": {
                "ocrResults": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["texts", "image"],
                        "properties": {
                            "texts": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["poly", "text", "score"],
                                    "properties": {
                                        "poly": _POLYGON,
                                        "text": {"type": "string"},
                                        "score": {"type": "number"},
                                    },
                                },
                            },
                            "image": {"type": "string", "description": "Annotated JPEG in base64"},
                        },
                    },
                },
                "dataInfo": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {"type": {"enum": ["image", "pdf"]}, "numPages": {"type": "integer"}},
                },
            },
        },
    },
}
_PAGE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["schema", "source", "index", "width_px", "height_px", "lines"],
    "properties": {
        "source": {"type": "string"},
        "index": _NULLABLE_INDEX,
        "width_px": {"type": "integer"},
        "height_px": {"type": "integer"},
        "lines": {"type": "array", "items": {"type": "object"}},
        "picture": {"type": "string", "description": "Annotated JPEG in base64, if asked for"},
    },
}
_FAILED: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["source", "index", "error"],
    "properties": {"source": {"type": "string"}, "index": _NULLABLE_INDEX, "error": _TOLD},
}
_LINE: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Each line is one of page, failed and, at the end, done.",
    "properties": {
        "page": _PAGE,
        "failed": _FAILED,
        "done": {
            "type": "object",
            "properties": {"pages": {"type": "integer"}, "failed": {"type": "integer"}},
        },
    },
}
_STATUSES: Final = {
    "401": "The API key is missing or wrong.",
    "408": "The body took too long.",
    "413": "Too many bytes, pixels, pages or files.",
    "415": "Another Content-Type is needed.",
    "422": "The request or what it holds can't be read.",
    "501": "The server lacks a reader, for PDF files say.",
    "503": "The server is busy, loading or stopping; see Retry-After.",
    "504": "The request took too long.",
}


def _failures(schema: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {status: {"description": words, "content": content} for status, words in _STATUSES.items()}


OCR: Final[dict[str, Any]] = {
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
    "responses": {
        "200": {
            "description": "The text of every page.",
            "content": {
                "application/json": {
                    "schema": _SUCCESS,
                    "example": {
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
                    },
                }
            },
        },
        **_failures(_ENVELOPE),
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

READ: Final[dict[str, Any]] = {
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
    "responses": {
        "200": {
            "description": "Every page's result, and what could not be read; or a line of each.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["pages", "failed"],
                        "properties": {
                            "pages": {"type": "array", "items": _PAGE},
                            "failed": {"type": "array", "items": _FAILED},
                        },
                    }
                },
                "application/x-ndjson": {"schema": _LINE},
            },
        },
        **_failures(_FAILURE),
    },
}

_STATUS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"enum": ["alive", "ready", "loading", "stopping"]}},
}
_OF_MODELS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "models"],
    "properties": {
        "name": {"type": "string"},
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["stage", "name", "sha256"],
                "properties": {name: {"type": "string"} for name in ("stage", "name", "sha256")},
            },
        },
        **{name: {"type": "string"} for name in ("device", "provider", "precision", "version")},
    },
}


def _answers(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Document the JSON answers of a route without a body, by status."""
    words = {"200": "As asked for.", **_STATUSES}
    return {
        "responses": {
            status: {"description": words[status], "content": {"application/json": {"schema": schema}}}
            for status, schema in schemas.items()
        }
    }


MODELS: Final = _answers({"200": _OF_MODELS, "401": _FAILURE, "503": _FAILURE})
HEALTH: Final = _answers({"200": _STATUS})
READINESS: Final = _answers({"200": _STATUS, "503": _STATUS})
METRICS: Final[dict[str, Any]] = {
    "responses": {
        "200": {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        "401": {"description": _STATUSES["401"], "content": {"application/json": {"schema": _ENVELOPE}}},
    }
}
