"""`farthing generate PROMPT`: one answer, streamed, with what it cost."""

import sys
from typing import TYPE_CHECKING, Annotated

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
    weights_fields,
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
from farthing.errors import InvalidRequest
from farthing.request import Message, Request, SamplingParams

if TYPE_CHECKING:
    from farthing.models import Model
    from farthing.request import Done, Token

EXAMPLE = 'farthing generate "Why is the sea salty?" --temperature 0 --max-tokens 64'


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to answer; - reads standard input.")],
    model: ModelOption = DEFAULT_MODEL,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message before it.")] = None,
    max_tokens: MaxTokensOption = DEFAULTS.max_tokens,
    temperature: TemperatureOption = DEFAULTS.temperature,
    top_k: TopKOption = DEFAULTS.top_k,
    top_p: TopPOption = DEFAULTS.top_p,
    min_p: MinPOption = DEFAULTS.min_p,
    repetition_penalty: PenaltyOption = DEFAULTS.repetition_penalty,
    seed: SeedOption = DEFAULTS.seed,
    stop: StopOption = None,
    logprobs: Annotated[
        int | None, typer.Option("--logprobs", metavar="N", help="With --json: log-probabilities of the N likeliest.")
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Do not stop at the end-of-sequence token.")] = False,
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
    """Answer one prompt, streaming, and say what it cost."""
    params = SamplingParams(
        temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens, tuple(stop or ()), logprobs, ignore_eos
    )
    if logprobs is not None and not json_mode:
        raise InvalidRequest("--logprobs needs --json, which is where they are shown")
    if raw and system is not None:
        raise InvalidRequest("--system needs the chat template, which --raw leaves out; use one of the two")
    text = _read_stdin() if prompt == "-" else prompt
    if not text:
        raise InvalidRequest("the prompt is empty; give some text, or - to read it from standard input")

    host = HostCost(usd_per_hour)
    engine = open_engine(model, weights, threads, product, speculation, 1, cold_folder, cold_bytes, kv, experts_folder)
    tokens: list[Token] = []

    def show(token: "Token") -> None:
        tokens.append(token)
        if not json_mode:
            sys.stdout.write(token.text)
            sys.stdout.flush()

    with engine:
        done = stream(engine, _request(engine.model, text, system, raw, params), show)

    def end() -> None:
        sys.stdout.write("\n")
        note(f"{answer_line(done, host)} at ${host.usd_per_hour}/h ({host.source})")
        if weights_line:
            note(weights_line)

    weights_line, weights_document = weights_fields(engine)
    document = answer_fields(done, host) | weights_document
    if logprobs is not None:
        document["logprobs"] = _logprobs(done, tokens)
    emit(json_mode, document, end)
    if done.finish_reason == "abort":
        raise KeyboardInterrupt


def _request(model: "Model", text: str, system: str | None, raw: bool, params: SamplingParams) -> Request:
    if raw:
        return Request(token_ids=tuple(model.tokenizer.encode(text)), params=params)
    before = () if system is None else (Message("system", system),)
    return Request((*before, Message("user", text)), params=params)


def _logprobs(done: "Done", tokens: "list[Token]") -> list[dict[str, object]]:
    return [
        {
            "token_id": token.token_id,
            "logprob": token.logprob,
            "top": [{"token_id": id, "logprob": logprob} for id, logprob in token.top_logprobs],
        }
        for token in tokens[: len(done.token_ids)]  # an end-of-sequence token is no part of the answer
    ]


def _read_stdin() -> str:
    """Standard input as text; bytes that are not UTF-8 become U+FFFD."""
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")
