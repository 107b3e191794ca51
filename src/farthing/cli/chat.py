"""`farthing chat`: a conversation in the terminal, streamed, with the cost of each turn."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._engine import (
    DEFAULT_HOST,
    DEFAULT_SPECULATION,
    DEFAULTS,
    ColdBytesOption,
    ColdFolderOption,
    ExpertsFolderOption,
    KVOption,
    MaxTokensOption,
    MinPOption,
    PenaltyOption,
    ProductOption,
    SeedOption,
    SpeculationOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    answer_fields,
    answer_line,
    open_engine,
    stream,
)
from farthing.cli._output import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    ThreadsOption,
    UsdPerHourOption,
    WeightsOption,
    emit,
    note,
)
from farthing.economics.cost import HostCost
from farthing.request import Message, Request, SamplingParams

if TYPE_CHECKING:
    from farthing.engine import Engine
    from farthing.request import Token

EXAMPLE = 'farthing chat --system "You answer in one sentence." --temperature 0'


def chat(
    model: ModelOption = DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message before all.")] = None,
    max_tokens: MaxTokensOption = DEFAULTS.max_tokens,
    temperature: TemperatureOption = DEFAULTS.temperature,
    top_k: TopKOption = DEFAULTS.top_k,
    top_p: TopPOption = DEFAULTS.top_p,
    min_p: MinPOption = DEFAULTS.min_p,
    repetition_penalty: PenaltyOption = DEFAULTS.repetition_penalty,
    seed: SeedOption = DEFAULTS.seed,
    stop: StopOption = None,
    weights: WeightsOption = None,
    product: ProductOption = None,
    kv: KVOption = None,
    speculation: SpeculationOption = DEFAULT_SPECULATION,
    cold_folder: ColdFolderOption = None,
    cold_bytes: ColdBytesOption = None,
    experts_folder: ExpertsFolderOption = None,
    threads: ThreadsOption = None,
    usd_per_hour: UsdPerHourOption = DEFAULT_HOST.usd_per_hour,
    json_mode: JsonOption = False,
) -> None:
    """Talk to a model, one line a turn: Ctrl-C stops an answer, Ctrl-D ends. With --json answers stream to stderr."""
    params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens, tuple(stop or ()))
    host = HostCost(usd_per_hour)
    with open_engine(
        model, weights, threads, product, speculation, 1, cold_folder, cold_bytes, kv, experts_folder
    ) as engine:
        note(f"{engine.model.name} at ${host.usd_per_hour}/h ({host.source}). Ctrl-C stops an answer, Ctrl-D ends.")
        conversation = _Conversation(engine, host, params, system, json_mode)
        try:
            while (line := _read_line()) is not None:
                if line.strip():
                    conversation.turn(line)
        finally:  # what was answered is told even when a turn fails
            note(f"{len(conversation.turns)} turns, ${conversation.total_usd:.8f} in all")
            document = {"turns": conversation.turns, "total_cost_usd": conversation.total_usd}
            emit(json_mode, document, lambda: None)


class _Conversation:
    """The messages so far; each turn sends all of them, and the engine reads what it has seen from its cache."""

    def __init__(
        self, engine: "Engine", host: HostCost, params: SamplingParams, system: str | None, json_mode: bool
    ) -> None:
        self.engine, self.host, self.params = engine, host, params
        self.out = sys.stderr if json_mode else sys.stdout
        self.messages: list[Message] = [] if system is None else [Message("system", system)]
        self.turns: list[dict[str, Any]] = []

    @property
    def total_usd(self) -> float:
        return float(sum(turn["cost_usd"] for turn in self.turns))

    def turn(self, text: str) -> None:
        messages = (*self.messages, Message("user", text))
        done = stream(self.engine, Request(messages, params=self.params), self._show)
        self.out.write("\n")
        self.out.flush()
        self.messages = [*messages, Message("assistant", done.text)]
        self.turns.append({"prompt": text, **answer_fields(done, self.host)})
        stopped = "stopped; " if done.finish_reason == "abort" else ""
        note(f"  [{stopped}{answer_line(done, self.host)}; ${self.total_usd:.8f} so far]")

    def _show(self, token: "Token") -> None:
        self.out.write(token.text)
        self.out.flush()


def _read_line() -> str | None:
    """The next line without its end; None at the end of input."""
    while True:
        try:
            if sys.stdin.isatty():
                sys.stderr.write("> ")
                sys.stderr.flush()
            raw = sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            note("\n(Ctrl-D ends)")
            continue
        return raw.decode("utf-8", errors="replace").rstrip("\r\n") if raw else None
