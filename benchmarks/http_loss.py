"""What HTTP takes from the local engine: 16 streams through `farthing serve` beside the same requests in process."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import uvloop

from benchmarks.conversations import question
from benchmarks.load.wave import Heard, Wave, chat_request, send_wave
from farthing.engine import Engine, EngineConfig
from farthing.models import Model
from farthing.report.speed import Bench, Work
from farthing.request import Message, Request, SamplingParams, Token

__all__ = ["http_loss", "http_table"]

NUM_STREAMS, ANSWER_TOKENS = 16, 256
PARAMS = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS, ignore_eos=True)
ENGINE, HTTP = "engine in process", "behind HTTP"
Json = dict[str, Any]


def in_process(engine: Engine, prompts: Sequence[str]) -> Wave:
    """The same requests in the engine itself, in one loop of steps."""
    started = time.perf_counter()
    first_s: dict[int, float] = {}
    heard: list[Heard] = []
    for prompt in prompts:
        engine.submit(Request((Message("user", prompt),), params=PARAMS))
    while engine.has_work:
        events = engine.step()
        now_s = time.perf_counter() - started
        for event in events:
            if isinstance(event, Token):
                first_s.setdefault(event.request_id, now_s)
            else:
                used = event.usage
                counts = (used.input_tokens, used.cache_read_tokens, used.output_tokens)
                heard.append(Heard(first_s[event.request_id], now_s, *counts, event.text))
    return Wave(tuple(heard))


def http_loss(
    model: Model, server: AbstractContextManager[int], rounds: int, threads: int, say: Callable[[str], None]
) -> Json:
    """Rounds interleaved, the order turned; each round asks other questions of both, a first one is not counted.
    Raises ValueError where the two answered the same request differently."""
    runs: dict[str, list[Wave]] = {ENGINE: [], HTTP: []}
    with server as port:
        engine = Engine(model, EngineConfig(num_threads=threads))
        for number in range(rounds + 1):
            prompts = [f"{number}. {question(user, number)}" for user in range(NUM_STREAMS)]
            asked = [
                chat_request([{"role": "user", "content": prompt}], ANSWER_TOKENS, model=model.name)
                for prompt in prompts
            ]
            ways: dict[str, Callable[[], Wave]] = {
                ENGINE: lambda prompts=prompts: in_process(engine, prompts),  # type: ignore[misc]
                HTTP: lambda asked=asked: uvloop.run(send_wave(port, asked)),  # type: ignore[misc]
            }
            waves = {name: ways[name]() for name in (ENGINE, HTTP)[:: 1 if number % 2 else -1]}
            _check(waves)
            for name, wave in waves.items():
                runs[name] += [wave] if number else []
            say(
                f"HTTP, round {number} of {rounds}: " + ", ".join(f"{n} {w.output_tok_s:.0f}" for n, w in waves.items())
            )
        engine.close()
    work = Work("decode", NUM_STREAMS, _middle(runs[ENGINE]))
    alone = Bench(model, (work,), EngineConfig.product, threads, EngineConfig().kv).row(work)
    return _figures(runs, alone.tok_s, work.context)


def _middle(waves: Sequence[Wave]) -> int:
    """Tokens of context half way through an answer."""
    given = statistics.mean(one.input_tokens for wave in waves for one in wave.heard)
    return round(given) + ANSWER_TOKENS // 2


def _check(waves: Mapping[str, Wave]) -> None:
    """HTTP's answers come back in the order asked, the engine's as they end."""
    texts = [sorted(one.text for one in wave.heard) for wave in waves.values()]
    if texts[0] != texts[1]:
        raise ValueError("the engine in process and the one behind HTTP answered differently")


def _figures(runs: Mapping[str, Sequence[Wave]], kernels_tok_s: float, context: int) -> Json:
    rows = {
        name: {
            "output_tok_s": statistics.median(wave.output_tok_s for wave in waves),
            "decode_tok_s": statistics.median(wave.decode_tok_s for wave in waves),
            "together_tok_s": statistics.median(wave.together_tok_s for wave in waves),
            "rounds_output_tok_s": [round(wave.output_tok_s, 1) for wave in waves],
        }
        for name, waves in runs.items()
    }

    def lost(ours: float, whole: float) -> float:
        return 100 * (1 - ours / whole)

    http, engine = rows[HTTP], rows[ENGINE]
    return {
        "rows": rows,
        "kernels_decode_tok_s": kernels_tok_s,
        "kernels_context": context,
        "streams": NUM_STREAMS,
        "answer_tokens": ANSWER_TOKENS,
        "lost_percent": {
            "whole, against the engine": lost(http["output_tok_s"], engine["output_tok_s"]),
            "decode, against the engine": lost(http["decode_tok_s"], engine["decode_tok_s"]),
            "decode, against farthing bench": lost(http["decode_tok_s"], kernels_tok_s),
            "while all answer, against farthing bench": lost(http["together_tok_s"], kernels_tok_s),
            "engine's decode, against farthing bench": lost(engine["decode_tok_s"], kernels_tok_s),
            "engine's while all answer, against farthing bench": lost(engine["together_tok_s"], kernels_tok_s),
        },
    }


def http_table(loss: Json) -> str:
    lines = [f"{loss['streams']} streams of {loss['answer_tokens']} tokens   out tok/s  while decoding   while all do"]
    for name, row in loss["rows"].items():
        lines.append(
            f"{name:28} {row['output_tok_s']:10,.0f} {row['decode_tok_s']:15,.0f} {row['together_tok_s']:14,.0f}"
        )
    lines.append(f"{'farthing bench, kernels':28} {'':10} {loss['kernels_decode_tok_s']:15,.0f}")
    lines += [f"lost, {name}: {percent:.1f} %" for name, percent in loss["lost_percent"].items()]
    return "\n".join(lines)
