"""What a provider's refusal, or no answer at all, means to the client.

provider                     client
400 413 422                  the same, with the provider's body: the client sent it
401 403 402                  502 upstream_auth, upstream_payment: the operator's key or account, not the client's
404                          404
408, our own time-outs       504
429                          429 with Retry-After
5xx                          502
redirects, anything else     502: not followed, a key must not travel
"""

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

import orjson

from farthing.upstreams.errors import UpstreamError

__all__ = [
    "broke_off",
    "is_repeatable",
    "refusal",
    "reported",
    "retry_after_s",
    "timed_out",
    "unreachable",
]

REPEATABLE = (408, 429, 500, 502, 503, 504, 529)
MAX_MESSAGE = 500  # characters of a provider's message
CLIENTS_FAULT = (400, 413, 422)


def unreachable(name: str, why: str) -> UpstreamError:
    message = f"upstream {name!r} cannot be reached ({why})"
    return UpstreamError(message, status=502, code="upstream_unreachable", is_retryable=True)


def broke_off(name: str) -> UpstreamError:
    message = f"upstream {name!r} closed the connection before the answer was complete"
    return UpstreamError(message, status=502, code="upstream_broke_off", is_retryable=True)


def timed_out(name: str, waited_for: str) -> UpstreamError:
    message = f"upstream {name!r} took too long ({waited_for})"
    return UpstreamError(message, status=504, code="upstream_timeout", is_retryable=True)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After, in seconds or as a date; OpenAI's retry-after-ms is finer. None where none makes sense."""
    for key, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(key)
        if text is None:
            continue
        try:
            seconds = float(text) * unit_s
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds) and seconds <= 86400:
            return max(0.0, seconds)
    return None


def is_repeatable(status: int, headers: Mapping[str, str], code: str) -> bool:
    """Whether the same request may be sent here again. A used-up quota does not come back in seconds."""
    return status in REPEATABLE and headers.get("x-should-retry") != "false" and code != "insufficient_quota"


def refusal(name: str, status: int, headers: Mapping[str, str], content: bytes, secret: str | None) -> UpstreamError:
    """The error for an answer whose status is not 200. The key never shows, also where a provider repeats it."""
    if secret:
        content = content.replace(secret.encode(), b"[key]")
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError:
        parsed = None
    body = parsed if isinstance(parsed, dict) else None
    return _error(name, status, body, retry_after_s(headers))


def reported(name: str, body: dict[str, Any], secret: str | None) -> UpstreamError:
    """The error for one that came inside a stream whose status was 200."""
    if secret:
        body = orjson.loads(orjson.dumps(body).replace(secret.encode(), b"[key]"))
    inner = body.get("error")
    stated = inner.get("code") if isinstance(inner, dict) else None
    kind = inner.get("type") if isinstance(inner, dict) else None
    known = {"overloaded_error": 529, "rate_limit_error": 429, "api_error": 500, "invalid_request_error": 400}
    status = stated if isinstance(stated, int) and 400 <= stated < 600 else known.get(str(kind), 500)
    return _error(name, status, body, None)


def _error(name: str, status: int, body: dict[str, Any] | None, wait_s: float | None) -> UpstreamError:
    said, code, param = _said(body)
    told = f"upstream {name!r} refused ({status})" + (f": {said}" if said else "")
    if status in CLIENTS_FAULT:
        return UpstreamError(said or told, status=status, code=code or "invalid_request", param=param, body=body)
    if status in (401, 402, 403):
        problem, word = ("account", "upstream_payment") if status == 402 else ("key", "upstream_auth")
        message = f"upstream {name!r} does not accept this server's {problem}; its operator must see to it"
        return UpstreamError(message, status=502, code=word, is_retryable=True)
    if status == 404:
        return UpstreamError(told, status=404, code=code or "model_not_found", param=param, is_retryable=True)
    if status == 408:
        return UpstreamError(told, status=504, code="upstream_timeout", is_retryable=True)
    if status == 429:
        return UpstreamError(
            told, status=429, code=code or "rate_limit_exceeded", retry_after_s=wait_s, is_retryable=True
        )
    word = "upstream_failed" if status >= 500 else "upstream_refused"
    return UpstreamError(told, status=502, code=word, retry_after_s=wait_s, is_retryable=status >= 500)


def _said(body: dict[str, Any] | None) -> tuple[str, str, str | None]:
    """(message, code, param) of an error body: OpenAI's, Anthropic's, vLLM's old flat one, FastAPI's detail."""
    if body is None:
        return "", "", None
    inner = body.get("error")
    if isinstance(inner, str):
        inner = {"message": inner}
    if not isinstance(inner, dict):
        inner = body
    message = inner.get("message") or inner.get("detail")
    code = inner.get("code") if isinstance(inner.get("code"), str) else inner.get("type")
    param = inner.get("param")
    return (
        message[:MAX_MESSAGE] if isinstance(message, str) else "",
        code[:64] if isinstance(code, str) and code != "error" else "",
        param[:200] if isinstance(param, str) else None,
    )
