"""What a ledger teaches a router: feedback on answers whose prompts were stored. Without stored prompts, nothing."""

from collections.abc import Mapping

from farthing.errors import InvalidRequest
from farthing.ledger.feedback import FeedbackRow
from farthing.ledger.reader import Reader
from farthing.ledger.traffic import Traffic
from farthing.router.label import Label, Line

__all__ = ["ledger_lines", "ledger_prompts"]

HOW_TO_STORE = "a server keeps prompts only where [server] of its farthing.toml says stored_prompts = true"


def ledger_lines(reader: Reader) -> list[Line]:
    """One for each request with feedback and a stored prompt. Raises InvalidRequest where there is none."""
    feedback = reader.feedback()
    traffic = {row.request_id: row for row in reader.traffic()}
    known = [row for row in feedback if row.request_id in traffic]
    if not known:
        what = f"{len(feedback):,} requests with feedback, none with its prompt" if feedback else "no feedback"
        raise InvalidRequest(f"the ledger has {what}; {HOW_TO_STORE}, and takes feedback at POST /v1/feedback")
    attempts = reader.request_attempts([row.request_id for row in known])
    costs = {name: attempt.cost_pico for name, attempt in attempts.items()}
    return [Line(traffic[row.request_id].prompt, _labels(row, traffic[row.request_id], costs)) for row in known]


def ledger_prompts(reader: Reader) -> list[str]:
    """Stored prompts by time. Raises InvalidRequest where there are none."""
    prompts = [row.prompt for row in reader.traffic()]
    if not prompts:
        raise InvalidRequest(f"the ledger has no stored prompt; {HOW_TO_STORE}")
    return prompts


def _labels(feedback: FeedbackRow, traffic: Traffic, costs: Mapping[str, int | None]) -> dict[str, Label]:
    """A preference says something of both models, a score of the one that answered."""
    cost_pico = costs.get(feedback.request_id)
    served = feedback.served_model
    if feedback.preferred is None:
        return {served: Label(feedback.score, traffic.answer, cost_pico)}
    is_same = feedback.preferred == served
    labels = {served: Label(float(is_same), traffic.answer, cost_pico)}
    return labels if is_same else {**labels, feedback.preferred: Label(1.0)}
