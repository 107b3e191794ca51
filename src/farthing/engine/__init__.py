"""Requests in, events out: batching, paging, preemption and sampling behind four verbs."""

from farthing.engine.config import EngineConfig
from farthing.engine.engine import Engine, EngineStats

__all__ = ["Engine", "EngineConfig", "EngineStats"]
