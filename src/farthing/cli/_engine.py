"""What the commands that run a model share: options of sampling, the engine, an answer as it streams, its cost."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from farthing.cli._output import parse_bytes, warn
from farthing.economics.cost import HostCost
from farthing.request import SamplingParams

if TYPE_CHECKING:
    from farthing.engine import Engine, EngineConfig, Speculation
    from farthing.request import Done, Request, Token

DEFAULTS = SamplingParams()
DEFAULT_HOST = HostCost()

MaxTokensOption = Annotated[int, typer.Option("--max-tokens", metavar="N", help="Tokens of the answer at most.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", metavar="X", help="0 is greedy.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", metavar="N", help="Only the N likeliest (default: all).")]
TopPOption = Annotated[float, typer.Option("--top-p", metavar="P", help="The likeliest that sum to P.")]
MinPOption = Annotated[float, typer.Option("--min-p", metavar="P", help="At least P times the likeliest's.")]
PenaltyOption = Annotated[float, typer.Option("--repetition-penalty", metavar="X", help="1 is off.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Makes sampling repeatable.")]
StopOption = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends the answer; repeatable.")]
ProductOption = Annotated[
    Literal["f32", "int8"] | None,
    typer.Option("--product", help="Multiply in f32 after unpacking, or in integers (default: the engine's, int8)."),
]
KVOption = Annotated[
    str | None,
    typer.Option(
        "--kv",
        metavar="CODEC",
        help="Keep keys and values in f32, f16, q8, tq4, tq3 or tq2; q8/tq4 is K/V (default: the engine's).",
    ),
]
SpeculationOption = Annotated[
    str,
    typer.Option(
        "--speculation",
        metavar="HOW",
        help="Guess tokens and check them together, the answer stays the same: prompt-lookup (from the text so far), "
        "draft:MODEL (a small model too), or off.",
    ),
]
ColdFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--cold-folder",
        metavar="DIR",
        help="Keep computed keys and values in this folder, where the next run finds them. They hold what was said.",
    ),
]
ColdBytesOption = Annotated[
    int | None,
    typer.Option(
        "--cold-bytes",
        parser=parse_bytes,
        metavar="SIZE",
        help="Room for them at most, such as 4GiB (default: 1GiB); without --cold-folder they lie in memory.",
    ),
]
ExpertsFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--experts-folder",
        metavar="DIR",
        help="Keep experts' weights in a file in this folder and not in memory, so that a larger model runs, slower.",
    ),
]
DEFAULT_COLD_BYTES = 1 << 30  # where a folder is given
DEFAULT_SPECULATION: Literal["prompt-lookup"] = "prompt-lookup"  # one answer at a time is where it pays


def usable_threads(threads: int | None) -> int:
    """The number asked for, or one for each core this process may use."""
    from farthing.kernels.cores import default_threads

    return default_threads() if threads is None else threads


def engine_config(threads: int | None, product: str | None, kv: str | None = None, **more: Any) -> "EngineConfig":
    """The engine's defaults, but for the options given. Raises InvalidRequest for a codec that is not known."""
    from farthing.engine import EngineConfig
    from farthing.kernels.codecs import parse_codecs

    k_codec, v_codec = (None, None) if kv is None else parse_codecs(kv)
    given = {"product": product, "k_codec": k_codec, "v_codec": v_codec}
    more |= {name: value for name, value in given.items() if value is not None}
    return EngineConfig(num_threads=usable_threads(threads), **more)


def open_engine(
    model: str,
    weights: str | None,
    threads: int | None,
    product: str | None,
    speculation: "Speculation",
    max_num_seqs: int,
    cold_folder: Path | None,
    cold_bytes: int | None,
    kv: str | None,
    experts_folder: Path | None = None,
) -> "Engine":
    from farthing.engine import Engine
    from farthing.models import load_model

    if cold_bytes is None:
        cold_bytes = 0 if cold_folder is None else DEFAULT_COLD_BYTES
    more: dict[str, Any] = {"max_num_seqs": max_num_seqs, "speculation": speculation}
    more |= {"cold_folder": cold_folder, "cold_bytes": cold_bytes, "experts_folder": experts_folder}
    config = engine_config(threads, product, kv, **more)
    loaded = load_model(model, weights=weights)
    warn_of_codec(loaded.name, kv)
    return Engine(loaded, config)


def warn_of_codec(model: str, kv: str | None) -> None:
    """Say so where the codecs chosen for this model are known to cost quality, or were never measured."""
    from farthing.report.kv_gate import complaint

    if kv is not None and (text := complaint(model, kv)):
        warn(text)


def stream(engine: "Engine", request: "Request", show: Callable[["Token"], None]) -> "Done":
    """Run one request to its end, handing each token to `show`. Ctrl-C ends it with what there is ("abort")."""
    from farthing.request import Done

    request_id = engine.submit(request)
    with interruptible() as is_interrupted:
        while True:
            if is_interrupted():
                done = engine.abort(request_id)
                assert done is not None  # it is still under way, or we would have returned
                return done
            for event in engine.step():
                if isinstance(event, Done):
                    return event
                show(event)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C be noticed between steps instead of cutting through one. The second Ctrl-C interrupts as usual."""
    seen = False

    def notice(*_: object) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)


def answer_fields(done: "Done", host: HostCost) -> dict[str, Any]:
    """An answer as JSON fields. tokens_per_s is the pace of the tokens after the first; null for fewer than two."""
    usage = done.usage
    return {
        "text": done.text,
        "token_ids": list(done.token_ids),
        "finish_reason": done.finish_reason,
        "usage": {
            "input_tokens": usage.input_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "output_tokens": usage.output_tokens,
            "compute_s": usage.compute_s,
            "input_s": usage.input_s,
            "output_s": usage.output_s,
        },
        "cost_usd": float(host.usd(usage.compute_s)),
        "tokens_per_s": (usage.output_tokens - 1) / usage.output_s if usage.output_s > 0 else None,
        "usd_per_hour": float(host.usd_per_hour),
        "usd_per_hour_source": host.source,
    }


def weights_fields(engine: "Engine") -> tuple[str, dict[str, Any]]:
    """What of the model's weights a token costs, as JSON fields and, of a mixture of experts, as a line for people."""
    from farthing.report.model_weights import ModelWeights

    found, stats = ModelWeights.of(engine.model), engine.stats()
    document: dict[str, Any] = {"weights": asdict(found), "experts": None}
    if found.num_experts is None:
        return "", document
    document["experts"] = {
        "num_read": stats.num_experts_read,
        "per_layer_and_step": stats.experts_per_step,
        "num_page_faults": stats.num_page_faults,
    }
    read = f"{stats.experts_per_step:.1f} of {found.num_experts} experts in a layer and step"
    waited = f", {stats.num_page_faults:,} waits for the disk" if stats.num_page_faults else ""
    return f"{found.line()}; here {read}{waited}", document


def answer_line(done: "Done", host: HostCost) -> str:
    """One line for people: tokens, pace, cost."""
    usage = done.usage
    cached = f" ({usage.cache_read_tokens} from cache)" if usage.cache_read_tokens else ""
    pace = f", {(usage.output_tokens - 1) / usage.output_s:.0f} tok/s" if usage.output_s > 0 else ""
    return (
        f"{usage.input_tokens} tokens in{cached}, {usage.output_tokens} out{pace}, {usage.compute_s:.2f} s, "
        f"${host.usd(usage.compute_s):.8f}"
    )
