"""A stand-in for a large model, kind = "tests.distill.oracle": it looks the answer up in a file, at a hosted model's
price. The file may change while it serves."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from farthing.economics.usage import Usage
from farthing.router.label import call_text
from farthing.upstreams import Call, Chunk, Tally

__all__ = ["Oracle", "from_config"]

USAGE = Usage(400, 0, 8)  # with its list of labels, a prompt for a large model is longer than the text


class Oracle:
    def __init__(self, name: str, answers: Path) -> None:
        self.name = name
        self._path, self._answers, self._stamp = answers, dict[str, str](), 0

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        tally.upstream, tally.provider, tally.model = self.name, "openai", "gpt-5-nano"
        tally.usage, tally.usage_source = USAGE, "provider"
        if (found := self._path.stat().st_mtime_ns) != self._stamp:
            self._answers, self._stamp = json.loads(self._path.read_text()), found
        yield Chunk(self._answers[call_text(call.body)], finish_reason="stop")

    def max_usage(self, call: Call) -> Usage:  # noqa: ARG002
        return USAGE

    async def models(self) -> list[str]:
        return ["gpt-5-nano"]

    async def aclose(self) -> None:
        pass


def from_config(name: str, options: Mapping[str, Any]) -> Oracle:
    return Oracle(name, Path(options["answers"]))
