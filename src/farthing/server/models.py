"""GET /v1/models and /v1/models/{id}: each entry is what OpenAI's clients expect and what Anthropic's do, in one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from farthing.server.catalog import Served

__all__ = ["model_entry", "model_list"]


def model_entry(served: Served, created_s: int) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": created_s,
        "owned_by": served.owner,
        "type": "model",
        "display_name": served.name,
        "created_at": datetime.fromtimestamp(created_s, UTC).isoformat().replace("+00:00", "Z"),
    }


def model_list(served: Sequence[Served], created_s: int) -> dict[str, Any]:
    data = [model_entry(entry, created_s) for entry in served]
    return {
        "object": "list",
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
