"""What a response says about its answer, beside the answer."""

from farthing.server.answer_cost import costs_pico, usd_text
from farthing.server.reply import Headers
from farthing.upstreams import Call, Tally

__all__ = ["EVENT_STREAM", "answer_headers"]

EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
OURS = ("x-request-id", "request-id")  # are ours; the provider's go on under another name


def answer_headers(call: Call, tally: Tally, *, is_ended: bool, has_cache: bool = False) -> Headers:
    """Who answered; where it has ended, also what it cost. A cost that is not known is absent. has_cache: the response
    cache is on, so that what did not come from it was a miss."""
    headers = [
        (b"x-farthing-model", _value(tally.model or call.model)),
        (b"x-farthing-upstream", _value(tally.upstream)),
    ]
    if tally.route is not None:
        headers.append((b"x-farthing-route", _value(tally.route)))
    for name, value in tally.headers.items():
        shown = f"x-farthing-upstream-{name}" if name in OURS else name
        headers.append((shown.encode("latin-1", "replace"), _value(value)))
    if not is_ended:
        return headers
    headers.append((b"x-farthing-usage-source", _value(tally.usage_source)))
    cache = call.receipts[-1].cache if call.receipts else None
    if cache is not None or has_cache:
        headers.append((b"x-farthing-cache", _value(cache or "miss")))
    cost, baseline = costs_pico(call.receipts)
    if cost is not None:
        text = usd_text(cost).encode()
        headers += [(b"x-farthing-cost-usd", text), (b"x-litellm-response-cost", text)]
    if baseline is not None:
        headers.append((b"x-farthing-baseline-cost-usd", usd_text(baseline).encode()))
    return headers


def _value(text: str) -> bytes:
    """What a header can carry: printable ASCII."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text).encode()
