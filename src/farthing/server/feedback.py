"""POST /v1/feedback: how good an answer was, said by whoever asked for it. A comment may come along and is not kept."""

import re
from collections.abc import Mapping
from typing import Any

from farthing.ledger import Key
from farthing.ledger.feedback import Feedback
from farthing.server import fields
from farthing.server.asking import Asking
from farthing.server.body import parse_object
from farthing.server.errors import openai_error_body
from farthing.server.reply import send_json
from farthing.server.service import Service
from farthing.upstreams import UpstreamError

__all__ = ["FEEDBACK_PATH", "FeedbackEndpoint", "FeedbackTaker"]

FEEDBACK_PATH = "/v1/feedback"
VERDICTS = ("score", "is_right", "preferred")
KNOWN = ("request_id", *VERDICTS, "comment")
MAX_NAME = 200
_ID = re.compile(r"(?:^|[_-])([0-9a-f]{30})$")  # as in the headers, and at the end of an answer's own id


class FeedbackEndpoint:
    """What AskEndpoint must know of this path."""

    endpoint = "feedback"

    def error_body(self, error: UpstreamError, request_id: str) -> dict[str, Any]:  # noqa: ARG002
        return openai_error_body(error)


class FeedbackTaker:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, asking: Asking, key: Key | None, raw: bytes) -> None:
        request_id, feedback = read_feedback(parse_object(raw))
        model = await self._service.books.feedback(request_id, key, feedback)
        self._service.metrics.feedback(model, feedback.score)
        asking.outcome.status = 200
        await send_json(asking.send, 200, {"object": "feedback", "request_id": request_id}, asking.headers)


def read_feedback(body: Mapping[str, Any]) -> tuple[str, Feedback]:
    """Raises UpstreamError (400)."""
    unknown = [name for name in body if name not in KNOWN]
    if unknown:
        raise fields.invalid(f"{unknown[0][:60]!r} is not known; allowed: {', '.join(KNOWN)}", unknown[0][:60])
    found = _ID.search(fields.text(body, "request_id"))
    if found is None:
        raise fields.invalid("request_id is no id of this server; give x-farthing-request-id's value", "request_id")
    given = [name for name in VERDICTS if body.get(name) is not None]
    if len(given) != 1:
        raise fields.invalid(f"give one of {', '.join(VERDICTS)}", None, "missing_required_parameter")
    if given == ["preferred"]:
        name = fields.text(body, "preferred")
        if len(name) > MAX_NAME or not name.isprintable():
            raise fields.invalid(f"preferred is a model's name, at most {MAX_NAME} printable characters", "preferred")
        return found[1], Feedback(preferred=name)
    if given == ["is_right"]:
        return found[1], Feedback(score=float(fields.boolean(body, "is_right")))
    score = fields.number(body, "score", 0, 1)
    return found[1], Feedback(score=None if score is None else float(score))
