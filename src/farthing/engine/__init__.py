"""Requests in, events out: batching, paging, preemption, speculation and sampling behind four verbs."""

from farthing.engine.config import EngineConfig, Speculation
from farthing.engine.engine import Engine
from farthing.engine.speculative import Drafter
from farthing.engine.stats import EngineLoad, EngineStats

__all__ = ["Drafter", "Engine", "EngineConfig", "EngineLoad", "EngineStats", "Speculation"]
