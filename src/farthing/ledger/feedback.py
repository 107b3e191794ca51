"""What people say of answers: appended for a request that their own key made, never changed. No comment is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from farthing.ledger.database import Database
from farthing.ledger.ids import new_id, now_us
from farthing.upstreams.errors import UpstreamError

__all__ = ["Feedback", "FeedbackRow", "RoutedScore", "feedback_rows", "insert_feedback", "routed_scores"]

MAX_PER_REQUEST = 16
_COLUMNS = "f.request_id, f.at_us, f.key_id, f.served_model, f.score, f.preferred"


@dataclass(frozen=True, slots=True)
class Feedback:
    """One of the two: how good the answer was, 0 to 1, or the model whose answer would have been better."""

    score: float | None = None
    preferred: str | None = None


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    request_id: str
    at_us: int
    key_id: str | None  # whose
    served_model: str  # of the attempt whose answer was given
    score: float | None
    preferred: str | None


@dataclass(frozen=True, slots=True)
class RoutedScore:
    """What an answer was worth that a router had given, or a fallback."""

    asked_model: str
    served_model: str
    score: float


def insert_feedback(database: Database, request_id: str, key_id: str | None, feedback: Feedback) -> str | UpstreamError:
    """The model that it is about. In the caller's transaction, which an exception would undo for others too: so errors
    are returned, 404 for a request that this key did not make, 409 where there is more than enough of it."""
    found = database.execute(
        "SELECT key_id, served_model FROM attempts WHERE request_id = ?"
        # not a cascade's drafts and samples
        " ORDER BY CASE WHEN status = 'discarded' THEN 1 ELSE 0 END, attempt DESC LIMIT 1",
        (request_id,),
    ).fetchone()
    if found is None or found[0] != key_id:  # the same words for both: whose requests there are is nobody's business
        message = "this key made no such request; give its x-farthing-request-id, when its answer has ended"
        return UpstreamError(message, status=404, code="request_not_found", param="request_id")
    counted = database.execute("SELECT COUNT(*) FROM feedback WHERE request_id = ?", (request_id,)).fetchone()
    if counted[0] >= MAX_PER_REQUEST:
        message = f"this request has {MAX_PER_REQUEST} rows of feedback already; the last one counts"
        return UpstreamError(message, status=409, code="too_much_feedback", param="request_id")
    at_us = now_us()
    database.execute(
        "INSERT INTO feedback (id, request_id, at_us, key_id, served_model, score, preferred)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (new_id(at_us), request_id, at_us, key_id, found[1], feedback.score, feedback.preferred),
    )
    return str(found[1])


def feedback_rows(database: Database, since_us: int, until_us: int) -> list[FeedbackRow]:
    """The last of each request, in order of time."""
    found = database.execute(
        f"SELECT {_COLUMNS} FROM feedback f WHERE f.at_us >= ? AND f.at_us < ? ORDER BY f.id", (since_us, until_us)
    ).fetchall()
    by_request = {str(values[0]): _row(values) for values in found}
    return sorted(by_request.values(), key=lambda row: row.at_us)


def routed_scores(database: Database, since_us: int, until_us: int) -> list[RoutedScore]:
    """The last score of each request of that time whose answer has a route; preferences are none."""
    found = database.execute(
        "SELECT f.request_id, a.asked_model, f.served_model, f.score FROM feedback f"
        " JOIN attempts a ON a.request_id = f.request_id AND a.served_model = f.served_model"
        " WHERE a.started_us >= ? AND a.started_us < ? AND a.route IS NOT NULL AND a.status <> 'discarded'"
        " AND f.score IS NOT NULL ORDER BY f.id",
        (since_us, until_us),
    ).fetchall()
    by_request = {str(request): (str(asked), str(served), float(score)) for request, asked, served, score in found}
    return [RoutedScore(*values) for values in by_request.values()]


def _row(values: Sequence[object]) -> FeedbackRow:
    request_id, at_us, key_id, model, score, preferred = values
    return FeedbackRow(
        str(request_id),
        int(str(at_us)),
        None if key_id is None else str(key_id),
        str(model),
        None if score is None else float(str(score)),
        None if preferred is None else str(preferred),
    )
