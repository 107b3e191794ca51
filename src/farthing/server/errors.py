"""Errors as OpenAI's clients expect them, and what of ours becomes which status."""

import math
from typing import Any

from farthing.errors import CapacityError, FarthingError, InvalidRequest
from farthing.upstreams import UpstreamError

__all__ = ["as_upstream_error", "bad_request", "error_headers", "openai_error", "openai_error_body"]

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
QUOTA_CODES = ("insufficient_quota", "budget_exceeded")


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> UpstreamError:
    return UpstreamError(message, status=400, code=code, param=param)


def as_upstream_error(error: FarthingError) -> UpstreamError:
    """What an answer failed with, as an error that has a status. What a request cannot have is its sender's to mend."""
    if isinstance(error, UpstreamError):
        return error
    if isinstance(error, CapacityError):
        return bad_request(str(error), code="context_length_exceeded")
    if isinstance(error, InvalidRequest):
        return bad_request(str(error))
    return UpstreamError(str(error), status=500, code="server_error")


def openai_error(error: UpstreamError) -> dict[str, Any]:
    """The object under "error"."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    if error.code in QUOTA_CODES:
        kind = "insufficient_quota"
    return {"message": str(error), "type": kind, "param": error.param, "code": error.code}


def openai_error_body(error: UpstreamError) -> dict[str, Any]:
    """The whole body: what a provider said where it speaks this form, or ours."""
    if error.body is not None and isinstance(error.body.get("error"), dict):
        return dict(error.body)
    return {"error": openai_error(error)}


def error_headers(error: UpstreamError) -> list[tuple[bytes, bytes]]:
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413) or error.code == "server_draining":
        headers.append((b"connection", b"close"))
    return headers
