"""What a replayed trace costs: the tokens that were computed at this machine's measured pace, and what finding took.

    seconds = (input - found) / prefill_tok_s + output / decode_tok_s + what the cache manager took
    $/Mtok  = seconds at the machine's price per hour / (input + output)

A token costs the same wherever it stands. In truth one that reads a long context costs more: with prompts longer than
the one that was measured, all these costs are too low, and so is what a hit saves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median

from farthing.cache import Eviction
from farthing.economics.cost import HostCost
from farthing.engine import EngineConfig
from farthing.engine.config import kv_token_bytes
from farthing.errors import CapacityError, InvalidRequest
from farthing.models import Model
from farthing.report.replay import Replayed, pages_for_all, replay
from farthing.report.roofline import DECODE_STEPS
from farthing.report.speed import Bench, Work
from farthing.report.trace import Trace

__all__ = ["Pace", "Row", "Study", "measure_pace", "pace_of"]

CONTEXT = 512  # tokens of the prompt that is measured, and of each sequence that answers


@dataclass(frozen=True)
class Pace:
    """Tokens a second. cached_tok_s None: finding costs what it takes while the trace is played.

    Raises InvalidRequest for a pace that is not above 0.
    """

    prefill_tok_s: float
    decode_tok_s: float
    cached_tok_s: float | None = None
    source: str = "as given"

    def __post_init__(self) -> None:
        for name in ("prefill_tok_s", "decode_tok_s", "cached_tok_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidRequest(f"{name} is {value}; allowed: a number of tokens a second above 0")

    def seconds(self, replayed: Replayed) -> float:
        """Time of the machine that the trace takes."""
        computed_s = self.seconds_without_cache(replayed) - replayed.cache_read_tokens / self.prefill_tok_s
        if self.cached_tok_s is None:
            return computed_s + replayed.match_s + replayed.manage_s
        return computed_s + replayed.cache_read_tokens / self.cached_tok_s

    def seconds_without_cache(self, tokens: "Replayed | Trace") -> float:
        """The same where every token is computed."""
        return tokens.input_tokens / self.prefill_tok_s + tokens.output_tokens / self.decode_tok_s


@dataclass(frozen=True)
class Row:
    """A trace at one capacity, with one codec and one eviction.

    `tokens` and `bytes` are what the pages in use held at most, `capacity_*` what all pages hold (None: unlimited).
    Bytes are those of keys and values.
    """

    hit_rate: float  # share of the input tokens
    seconds: float  # of the machine
    tokens: int
    bytes: int
    usd_per_mtok: Decimal  # input and output together
    usd_per_mtok_without_cache: Decimal
    capacity_tokens: int | None
    capacity_bytes: int | None
    codec: str
    bytes_per_token: int
    eviction: Eviction
    pace: Pace
    replayed: Replayed


@dataclass
class Study:
    """A trace, and what does not change from row to row. Played once for each number of pages and eviction.

    pace: of a configuration of the engine; asked once for each codec.
    """

    trace: Trace
    model: Model
    page_size: int
    host: HostCost
    pace: Callable[[EngineConfig], Pace]
    tick: Callable[[int], None] = lambda _: None
    _played: dict[tuple[int, Eviction], Replayed] = field(default_factory=dict)
    _paces: dict[tuple[str, str], Pace] = field(default_factory=dict)

    def row(self, config: EngineConfig, num_pages: int | None) -> Row:
        """num_pages None: nothing is evicted. Codec and eviction are the config's."""
        bytes_per_token = kv_token_bytes(config, self.model.config)
        replayed, pace = self._replayed(num_pages, config.eviction), self._pace(config)
        tokens = replayed.peak_pages * self.page_size
        capacity = None if num_pages is None else num_pages * self.page_size
        seconds = pace.seconds(replayed)
        return Row(
            hit_rate=replayed.hit_rate,
            seconds=seconds,
            tokens=tokens,
            bytes=tokens * bytes_per_token,
            usd_per_mtok=self._usd_per_mtok(seconds),
            usd_per_mtok_without_cache=self._usd_per_mtok(pace.seconds_without_cache(self.trace)),
            capacity_tokens=capacity,
            capacity_bytes=None if capacity is None else capacity * bytes_per_token,
            codec=config.kv,
            bytes_per_token=bytes_per_token,
            eviction=config.eviction,
            pace=pace,
            replayed=replayed,
        )

    def pages(self, tokens: int) -> int:
        """Whole pages in as many tokens. Raises InvalidRequest where there is none."""
        if tokens < self.page_size:
            raise InvalidRequest(
                f"the capacity is {tokens} tokens; a page is {self.page_size}: give room for one at least"
            )
        return tokens // self.page_size

    def _replayed(self, num_pages: int | None, eviction: Eviction) -> Replayed:
        enough = pages_for_all(self.trace, self.page_size)
        key = (enough if num_pages is None else min(num_pages, enough), eviction)
        if key not in self._played:
            self._played[key] = replay(self.trace, key[0], self.page_size, eviction, self.tick)
        return self._played[key]

    def _pace(self, config: EngineConfig) -> Pace:
        codecs = (config.k_codec, config.v_codec)
        if codecs not in self._paces:
            self._paces[codecs] = self.pace(config)
        return self._paces[codecs]

    def _usd_per_mtok(self, seconds: float) -> Decimal:
        """0 where there are no tokens: nothing was asked for, nothing is charged."""
        num_tokens = self.trace.input_tokens + self.trace.output_tokens
        return self.host.usd_per_mtok(num_tokens, seconds) if num_tokens else Decimal(0)


def pace_of(
    model: Model, prefill_tok_s: float | None, decode_tok_s: float | None, cached_tok_s: float | None
) -> Callable[[EngineConfig], Pace]:
    """The pace as given, or measured for each configuration where prefill and decode are not."""
    if prefill_tok_s is None or decode_tok_s is None:
        return lambda config: measure_pace(model, config, cached_tok_s)
    given = Pace(prefill_tok_s, decode_tok_s, cached_tok_s)
    return lambda _: given


def measure_pace(model: Model, config: EngineConfig, cached_tok_s: float | None = None) -> Pace:
    """Time a prompt, and a full batch that answers, as `farthing bench` does.

    Raises CapacityError for a model whose context is too short to be measured.
    """
    context = min(CONTEXT, model.config.max_position_embeddings - DECODE_STEPS)
    if context < 1:
        raise CapacityError(
            f"the context of {model.name} is {model.config.max_position_embeddings} tokens, measuring takes "
            f"{DECODE_STEPS + 1}; give --prefill-tok-s and --decode-tok-s"
        )
    prefill, decode = Work("prefill", 1, context), Work("decode", config.max_num_seqs, context)
    bench = Bench(model, (prefill, decode), config.product, config.num_threads, config.kv)
    tok_s = [work.num_tokens / median(bench.seconds(work)) for work in (prefill, decode)]
    source = (
        f"measured on this machine: a prompt of {context} tokens, and {decode.batch} sequences that answer behind "
        f"{context}, {config.num_threads} threads"
    )
    return Pace(tok_s[0], tok_s[1], cached_tok_s, source)
