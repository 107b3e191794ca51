"""The tables of a replay: hit rate, memory and $/Mtok by capacity, by codec, and by what is evicted first."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from farthing.cache import Eviction
from farthing.engine import EngineConfig
from farthing.engine.config import kv_token_bytes
from farthing.kernels import instruction_sets
from farthing.kernels.codecs import parse_codecs
from farthing.report.machine import commit, this_machine
from farthing.report.replay_cost import Row, Study
from farthing.report.words import rate, times, usd

__all__ = ["Line", "lines", "print_lines", "to_json"]

CAPACITIES = (1_024_000, 2_560_000, 5_120_000, 10_240_000, 25_600_000)  # tokens; shown as far as they limit anything
SHARES = (64, 16, 4)  # of what the trace takes in all: the capacities for a trace that is shorter
EVERY_CODEC = ("f32", "f16", "q8", "q8/tq4", "tq4", "tq3", "tq2")
WIDTH = 120
UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True)
class Line:
    """A row, and the same with other evictions. It stands in the table by capacity, or in that by codec."""

    row: Row
    others: tuple[Row, ...]
    is_by_codec: bool


def lines(
    study: Study,
    config: EngineConfig,
    capacities: Sequence[int | None],
    memory: int | None,
    *,
    has_codec: bool,
    is_compared: bool,
) -> list[Line]:
    """With `capacities` (tokens; None is unlimited) a line for each, in the config's codec. With `memory` (bytes) one
    for each codec, or for the config's where it was chosen (has_codec). With neither both tables, over a range.

    is_compared: the other evictions are played too. Raises InvalidRequest for less room than a page.
    """

    def line(config: EngineConfig, num_pages: int | None, is_by_codec: bool = False) -> Line:
        names = [name for name in get_args(Eviction) if is_compared and name != config.eviction]
        others = tuple(study.row(replace(config, eviction=name), num_pages) for name in names)
        return Line(study.row(config, num_pages), others, is_by_codec)

    def with_kv(name: str) -> EngineConfig:
        k, v = parse_codecs(name)
        return replace(config, k_codec=k, v_codec=v)

    def by_codec(num_bytes: int) -> list[Line]:
        chosen = [config] if has_codec else [with_kv(name) for name in EVERY_CODEC]
        return [
            line(config, study.pages(num_bytes // kv_token_bytes(config, study.model.config)), True)
            for config in chosen
        ]

    if memory is not None:
        return by_codec(memory)
    if capacities:
        return [line(config, None if tokens is None else study.pages(tokens)) for tokens in capacities]
    in_all = study.row(config, None).tokens
    chosen = [tokens for tokens in CAPACITIES if tokens < in_all]
    if len(chosen) < 2:
        chosen = sorted({max(study.page_size, in_all // share) for share in SHARES})
    halves, whole = with_kv("f16"), with_kv("f32")
    num_bytes = [kv_token_bytes(each, study.model.config) for each in (halves, whole)]
    same = max(chosen[len(chosen) > 1] * num_bytes[0], study.page_size * num_bytes[1])
    return [*(line(config, study.pages(tokens)) for tokens in chosen), line(config, None), *by_codec(same)]


def to_json(study: Study, found: Sequence[Line]) -> dict[str, Any]:
    """One document; a single line's fields stand at the top too. Dollars are numbers."""
    rows = [{**_fields(line.row), "others": [_fields(other) for other in line.others]} for line in found]
    trace, host = study.trace, study.host
    return {
        "trace": trace.name,
        "format": trace.format,
        "model": study.model.name,
        "page_size": study.page_size,
        "requests": len(trace.requests),
        "input_tokens": trace.input_tokens,
        "output_tokens": trace.output_tokens,
        "usd_per_hour": float(host.usd_per_hour),
        "usd_per_hour_source": host.source,
        **(rows[0] if len(rows) == 1 else {}),
        "rows": rows,
        "machine": asdict(this_machine(instruction_sets()[0])),
        "commit": commit(),
    }


def _fields(row: Row) -> dict[str, Any]:
    replayed, pace = row.replayed, row.pace
    return {
        "hit_rate": row.hit_rate,
        "tokens": row.tokens,
        "bytes": row.bytes,
        "usd_per_mtok": float(row.usd_per_mtok),
        "seconds": row.seconds,
        "usd_per_mtok_without_cache": float(row.usd_per_mtok_without_cache),
        "capacity_tokens": row.capacity_tokens,
        "capacity_bytes": row.capacity_bytes,
        "codec": row.codec,
        "bytes_per_token": row.bytes_per_token,
        "eviction": row.eviction,
        "cache_read_tokens": replayed.cache_read_tokens,
        "lookups": replayed.num_requests - replayed.num_refused,
        "requests_with_hit": replayed.num_hits,
        "requests_refused": replayed.num_refused,
        "match_s": replayed.match_s,
        "manage_s": replayed.manage_s,
        "prefill_tok_s": pace.prefill_tok_s,
        "decode_tok_s": pace.decode_tok_s,
        "cached_tok_s": pace.cached_tok_s,
        "pace_source": pace.source,
    }


def print_lines(study: Study, found: Sequence[Line], console: Console) -> None:
    """Print the tables; where there is no terminal, or a narrow one, its lines are long rather than cut."""
    console.width = max(console.width, WIDTH)
    trace, host, first = study.trace, study.host, found[0].row
    span_s = trace.requests[-1].timestamp_s - trace.requests[0].timestamp_s
    console.print(
        f"{trace.name} ({trace.format}): {len(trace.requests):,} requests in {span_s:,.0f} s, {trace.input_tokens:,} "
        f"input and {trace.output_tokens:,} output tokens; pages of {study.page_size} tokens"
    )
    console.print(f"Model {study.model.name}, machine at {usd(host.usd_per_hour)} an hour ({host.source})")
    finding = first.pace.cached_tok_s
    console.print(
        f"{rate(first.pace.prefill_tok_s)} input and {rate(first.pace.decode_tok_s)} output tok/s in {first.codec} "
        f"({first.pace.source}); finding costs {'what it takes' if finding is None else f'a token 1/{rate(finding)} s'}"
    )
    by_capacity = [line for line in found if not line.is_by_codec]
    by_codec = [line for line in found if line.is_by_codec]
    if by_capacity:
        console.print(f"\nBy capacity, {first.codec} keys and values, {first.bytes_per_token:,} bytes a token")
        console.print(_table(by_capacity))
    if by_codec:
        console.print("\nBy codec, in the same memory")
        console.print(_table(by_codec))
    refused = max(line.row.replayed.num_refused for line in found)
    if refused:
        console.print(f"Up to {refused} requests are larger than a cache above: never kept, and misses throughout")
    if trace.num_blocks == 0:
        console.print("This trace does not say which prompts begin alike: nothing can be found again")


def _table(found: Sequence[Line]) -> Table:
    """Codec and room, then for each eviction the hit rate, $/Mtok and how many times cheaper than without a cache."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("codec", no_wrap=True)
    names = ["tokens", "memory"]
    for row in (found[0].row, *found[0].others):
        names += [f"{row.eviction}: hit", "$/Mtok", "cheaper"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for line in found:
        row = line.row
        num_tokens, num_bytes = row.capacity_tokens, row.capacity_bytes
        if num_tokens is None or num_bytes is None:
            cells = [row.codec, f"unlimited: {_tokens_text(row.tokens)}", _bytes_text(row.bytes)]
        else:
            cells = [row.codec, _tokens_text(num_tokens), _bytes_text(num_bytes)]
        for each in (row, *line.others):
            cheaper = each.usd_per_mtok_without_cache / each.usd_per_mtok if each.usd_per_mtok else None
            cells += [f"{each.hit_rate:.1%}", usd(each.usd_per_mtok), "–" if cheaper is None else times(cheaper)]
        table.add_row(*cells)
    return table


def _tokens_text(tokens: int) -> str:
    return f"{tokens / 1e6:.2f} M" if tokens >= 1_000_000 else f"{tokens:,}"


def _bytes_text(num_bytes: int) -> str:
    for unit, name in UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} B"
