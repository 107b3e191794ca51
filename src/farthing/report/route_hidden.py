"""A local model's hidden states of labelled prompts, as a cascade's draft will have them: each prompt read once."""

from collections.abc import Sequence

import numpy as np

from farthing.engine import Engine
from farthing.errors import CapacityError
from farthing.models import load_model
from farthing.request import Done, Message, Request, SamplingParams
from farthing.router.hidden import Hidden, StatesOf
from farthing.upstreams.local_config import LocalConfig
from farthing.upstreams.local_model import served_name

__all__ = ["hidden_states"]

NUM_AT_ONCE = 256
ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1)


def hidden_states(source: str, num_threads: int | None = None) -> StatesOf:
    """Of a model by name or path, which is loaded when it is asked; num_threads None: one for each core. What it gives
    raises FarthingError for a model that cannot be loaded."""

    def states_of(prompts: Sequence[str]) -> Hidden:
        model, name = load_model(source), served_name(source)
        states = np.full((len(prompts), model.config.hidden_size), np.nan)
        with Engine(model, LocalConfig(threads=num_threads).engine(name)) as engine:
            for first in range(0, len(prompts), NUM_AT_ONCE):
                _fill(states[first : first + NUM_AT_ONCE], engine, prompts[first : first + NUM_AT_ONCE])
        return Hidden(name, states)

    return states_of


def _fill(states: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", engine: Engine, prompts: Sequence[str]) -> None:
    """Prompts that are too long for the model, which in a cascade would not answer them, stay unknown."""
    rows: dict[int, int] = {}
    for row, prompt in enumerate(prompts):
        request = Request(messages=(Message("user", prompt),), params=ONE_TOKEN, wants_hidden=True)
        try:
            rows[engine.submit(request)] = row
        except CapacityError:
            continue
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, Done):
                states[rows[event.request_id]] = event.hidden
