"""/openapi.json: the paths, and the least that a body must have. OpenAI and Anthropic say what the fields mean."""

from collections.abc import Sequence
from typing import Any

from farthing import __version__

__all__ = ["openapi_document"]

Json = dict[str, Any]
MODEL: Json = {"type": "string", "minLength": 1}
MESSAGES: Json = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
    },
}
COMMON: Json = {
    "model": MODEL,
    "stream": {"type": ["boolean", "null"]},
    "max_tokens": {"type": ["integer", "null"], "minimum": 1},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
}
BODIES: dict[str, tuple[list[str], Json]] = {
    "/v1/chat/completions": (["model", "messages"], {**COMMON, "messages": MESSAGES}),
    "/v1/completions": (["model", "prompt"], {**COMMON, "prompt": {"type": "string"}}),
    "/v1/responses": (["model", "input"], {"model": MODEL, "input": {"type": "string"}}),
    "/v1/messages": (["model", "messages", "max_tokens"], {**COMMON, "messages": MESSAGES}),
    "/v1/feedback": (
        ["request_id"],
        {
            "request_id": {"type": "string", "minLength": 1},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "is_right": {"type": "boolean"},
            "preferred": {"type": "string", "minLength": 1},
            "comment": {"type": "string"},
        },
    ),
    "/v1/messages/count_tokens": (["model", "messages"], {"model": MODEL, "messages": MESSAGES}),
}
STATUSES = {"400": "the request is wrong", "401": "the key is wrong", "404": "no such model", "503": "not now"}


def openapi_document(paths: Sequence[str]) -> Json:
    """paths are those of the APIs served."""
    asked = [path for path in BODIES if path in paths or path.rpartition("/")[0] in paths]
    return {
        "openapi": "3.1.0",
        "info": {"title": "farthing", "version": __version__},
        "paths": {
            **{path: {"post": _post(*BODIES[path])} for path in asked},
            **{path: {"get": _get()} for path in ("/v1/models", "/health", "/health/ready")},
            "/v1/models/{model}": {
                "get": {
                    "parameters": [{"name": "model", "in": "path", "required": True, "schema": MODEL}],
                    **_get(),
                }
            },
        },
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _post(required: list[str], properties: Json) -> Json:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}, **_get()}


def _get() -> Json:
    content = {"application/json": {"schema": {"type": "object"}}}
    refused = {status: {"description": text, "content": content} for status, text in STATUSES.items()}
    return {"responses": {"200": {"description": "the answer", "content": content}, **refused}}
