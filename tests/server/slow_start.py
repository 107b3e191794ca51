"""An upstream that never has its models loaded, kind = "tests.server.slow_start". It says when it begins."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from tests.server.play import Play

__all__ = ["from_config"]


class SlowStart(Play):
    async def start(self) -> None:
        print("loading", file=sys.stderr, flush=True)
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        print("closed", file=sys.stderr, flush=True)


def from_config(name: str, options: Mapping[str, Any]) -> SlowStart:  # noqa: ARG001
    return SlowStart(name, ["slow"])
