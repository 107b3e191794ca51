"""`farthing replay`: what a trace of real traffic would find again in the cache, and what its tokens would cost."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from farthing.cli._engine import DEFAULT_HOST, KVOption, ProductOption, engine_config, warn_of_codec
from farthing.cli._output import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    ThreadsOption,
    UsdPerHourOption,
    console,
    emit,
    parse_bytes,
    progress,
)
from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest

EXAMPLE = "farthing replay conversation_trace.jsonl --capacity-tokens 2560000 --json"

PAGE_SIZE = 512  # the traces' own: an id of theirs stands for as many tokens
PLAIN = "lru"  # the eviction whose figures come first


def parse_tokens(text: str) -> int | None:
    """A number of tokens, such as 2560000, 2.56M or 10k; None for `unlimited`."""
    if text.strip() == "unlimited":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no number of tokens; write it like 2560000, 2.56M or unlimited")
    return int(Decimal(found[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[found[2]])


def replay(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="Mooncake's JSON Lines or Azure's CSV; may be gzipped.")
    ],
    capacity_tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--capacity-tokens",
            metavar="N",
            help="Tokens that the cache holds: 2560000, 2.56M, unlimited, or several with commas (default: a table).",
        ),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            "--memory",
            parser=parse_bytes,
            metavar="SIZE",
            help="Instead of tokens: memory for keys and values, such as 16GiB, for every codec or the one of --kv.",
        ),
    ] = None,
    kv: KVOption = None,
    eviction: Annotated[
        str | None,
        typer.Option("--eviction", metavar="POLICY", help="What is evicted first (default: lru, others beside it)."),
    ] = None,
    page_size: Annotated[int, typer.Option("--page-size", min=1, max=1 << 20, metavar="N", help="Tokens.")] = PAGE_SIZE,
    prefill_tok_s: Annotated[
        float | None, typer.Option("--prefill-tok-s", metavar="X", help="Input tokens a second (default: measured).")
    ] = None,
    decode_tok_s: Annotated[
        float | None, typer.Option("--decode-tok-s", metavar="X", help="Output tokens a second (default: measured).")
    ] = None,
    cached_tok_s: Annotated[
        float | None,
        typer.Option("--cached-tok-s", metavar="X", help="Tokens found a second (default: measured in the replay)."),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    product: ProductOption = None,
    threads: ThreadsOption = None,
    usd_per_hour: UsdPerHourOption = DEFAULT_HOST.usd_per_hour,
    json_mode: JsonOption = False,
) -> None:
    """Play a trace through the cache manager: hit rate, memory and $/Mtok against capacity and codec.

    Forward passes are left out; a token that is computed costs what it was measured to cost on this machine.
    """
    capacities = [parse_tokens(text) for given in capacity_tokens or [] for text in given.split(",")]
    if capacities and memory is not None:
        raise InvalidRequest("--capacity-tokens and --memory both say how much is kept; give one of them")
    if (prefill_tok_s is None) is not (decode_tok_s is None):
        raise InvalidRequest("--prefill-tok-s and --decode-tok-s belong together; give both, or neither to measure")

    from farthing.models import load_model
    from farthing.report.replay_cost import Study, pace_of
    from farthing.report.replay_table import lines, print_lines, to_json
    from farthing.report.trace import read_trace

    config = engine_config(threads, product, kv, eviction=eviction or PLAIN)
    host, read, loaded = HostCost(usd_per_hour), read_trace(trace), load_model(model)
    warn_of_codec(loaded.name, kv)
    with progress() as bar:
        task = bar.add_task("requests", total=None)
        study = Study(
            read,
            loaded,
            page_size,
            host,
            pace_of(loaded, prefill_tok_s, decode_tok_s, cached_tok_s),
            lambda num: bar.update(task, advance=num),
        )
        found = lines(study, config, capacities, memory, has_codec=kv is not None, is_compared=eviction is None)
    emit(json_mode, to_json(study, found), lambda: print_lines(study, found, console()))
