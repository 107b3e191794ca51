"""The embedded model's own answers to BANKING77, with all that it tells of them: what benchmarks/hidden.py measures on.

A conversation shows the six training messages that have most words in common with the question, each answered by its
intent; the model answers the question in its turn, freely, greedily. Asked in one message it writes a sentence instead.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.intents_data import Intents, Split, load_intents
from farthing.engine import Engine
from farthing.models import Model, load_model
from farthing.models.grams import grams, sparse
from farthing.request import Done, Message, Request, SamplingParams, Token
from farthing.router.blocks import text_block
from farthing.router.hidden import Hidden
from farthing.router.labelled import Labelled
from farthing.router.signals import signals
from farthing.upstreams.call import TokenLogprob
from farthing.upstreams.local_config import LocalConfig

__all__ = ["MODEL", "banking77"]

MODEL = "smollm2-135m-instruct"
NUM_EXAMPLES = 6
NUM_SAMPLES = 3
COSTS = (1.0, 100.0)  # of the models; no figure of the benchmark depends on them
DRAFT = SamplingParams(temperature=0.0, max_tokens=16, stop=("\n",), logprobs=2)
SAMPLE = SamplingParams(temperature=0.7, max_tokens=16, stop=("\n",))


def banking77(folder: Path, num_rows: int, num_threads: int) -> Labelled:
    """`num_rows` random test rows; the large model is always right, the small one where it names the intent."""
    intents = load_intents(folder, "banking77").limited(num_rows)
    model = load_model(MODEL)
    with Engine(model, LocalConfig(threads=num_threads).engine(MODEL)) as engine:
        answers, found, states = _drafts(engine, _conversations(intents))
    named = [intents.names[label] for label in intents.test.labels]
    is_right = [answer.strip().lower() == name for answer, name in zip(answers, named, strict=True)]
    quality = np.stack([np.array(is_right, np.float64), np.ones(len(named))], axis=1)
    hidden = Hidden(MODEL, states)
    return Labelled((MODEL, "large"), COSTS, intents.test.texts, quality, tuple(answers), found, hidden=hidden)


def _conversations(intents: Intents) -> list[tuple[Message, ...]]:
    train, test = intents.train, intents.test
    found = sparse([grams(text) for text in train.texts], "words")
    block = text_block(found)
    similar = block.rows(sparse([grams(text) for text in test.texts], "words")) @ block.rows(found).T  # [test, train]
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :NUM_EXAMPLES][:, ::-1]
    return [
        _conversation(text, train.take(rows), intents.names) for text, rows in zip(test.texts, nearest, strict=True)
    ]


def _conversation(text: str, examples: Split, names: Sequence[str]) -> tuple[Message, ...]:
    shown: list[Message] = []
    for other, label in zip(examples.texts, examples.labels, strict=True):
        shown += [Message("user", other), Message("assistant", names[label])]
    return (Message("system", "Name the intent of each message."), *shown, Message("user", text))


def _drafts(
    engine: Engine, prompts: Sequence[tuple[Message, ...]]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Answers, signals of them, hidden states."""
    answers, rows, states = [], [], []
    for first in range(0, len(prompts), 64):
        part = prompts[first : first + 64]
        asked = [Request(messages=prompt, params=DRAFT, wants_hidden=True) for prompt in part]
        samples = [
            replace(request, params=replace(SAMPLE, seed=seed), wants_hidden=False)
            for request in asked
            for seed in range(NUM_SAMPLES)
        ]
        ids = [engine.submit(request) for request in (*asked, *samples)]
        tokens: dict[int, list[TokenLogprob]] = {id: [] for id in ids}
        done: dict[int, Done] = {}
        while engine.has_work:
            for event in engine.step():
                if isinstance(event, Done):
                    done[event.request_id] = event
                elif event.logprob is not None:
                    tokens[event.request_id].append(_logprob(engine.model, event))
        for at, id in enumerate(ids[: len(part)]):
            answers.append(done[id].text)
            others = ids[len(part) + NUM_SAMPLES * at :][:NUM_SAMPLES]
            rows.append(signals(tokens[id], done[id].text, [done[other].text for other in others]))
            states.append(done[id].hidden)
    return answers, np.array(rows), np.array(states)


def _logprob(model: Model, event: Token) -> TokenLogprob:
    assert event.logprob is not None
    top = tuple(("", b"", value) for _, value in event.top_logprobs)
    return TokenLogprob("", model.tokenizer.token_bytes(event.token_id), event.logprob, top)
