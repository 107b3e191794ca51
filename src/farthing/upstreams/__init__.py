"""Anything that answers a call: the local engine, hosted endpoints, and what wraps them."""

from farthing.upstreams.call import Allowance, Call, Chunk, Receipt, Tally, TokenLogprob, ToolDelta, Upstream, Wire
from farthing.upstreams.errors import UpstreamError

__all__ = [
    "Allowance",
    "Call",
    "Chunk",
    "Receipt",
    "Tally",
    "TokenLogprob",
    "ToolDelta",
    "Upstream",
    "UpstreamError",
    "Wire",
]
