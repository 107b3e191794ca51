"""Requests in, events out: batching, paging, preemption, speculation and sampling behind four verbs."""

from farthing.engine.config import EngineConfig, Speculation
from farthing.engine.engine import Engine, EngineStats
from farthing.engine.speculative import Drafter

__all__ = ["Drafter", "Engine", "EngineConfig", "EngineStats", "Speculation"]
