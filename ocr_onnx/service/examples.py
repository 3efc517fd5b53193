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
_TOLD: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("kind", "subject", "problem", "remedy")},
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
                        "fileType": {"type": "integer", "enum": [0, 1], "nullable": True},
                        "inferenceParams": {
                            "type": "object",
                            "nullable": True,
                            "properties": {
                                "maxLongSide": {"type": "integer", "minimum": 32, "maximum": 16384}
                            },
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
                    "schema": _ENVELOPE,
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
                            "pages": {"type": "array", "items": {"type": "object"}},
                            "failed": {"type": "array", "items": {"type": "object"}},
                        },
                    }
                },
                "application/x-ndjson": {"schema": {"type": "object"}},
            },
        },
        **_failures({"type": "object", "required": ["error"], "properties": {"error": _TOLD}}),
    },
}
