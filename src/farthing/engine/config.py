"""How an engine is set up, and how many pages that makes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from farthing.cache import Eviction
from farthing.errors import CapacityError, InvalidRequest
from farthing.kernels.codecs import CODECS, codecs_name
from farthing.kernels.cores import MAX_THREADS
from farthing.kernels.plan import KVSpec
from farthing.models import Model, ModelConfig

__all__ = ["EngineConfig", "Speculation", "check_experts_folder", "check_generates", "kv_spec", "kv_token_bytes"]

Speculation = str  # "off", "prompt-lookup", or "draft:" and a draft model: both, whichever promises more

DRAFT = "draft:"

PAGE_SIZES = (8, 16, 32, 64, 128, 256)  # whole vectors of keys, whole pages to a segment of 256 positions


@dataclass(frozen=True)
class EngineConfig:
    """Raises InvalidRequest for a value outside its range.

    is_kv_cached False is the old way, kept to be measured: one sequence at a time, and every output token computes the
    whole sequence again, without drafts. Speculation changes no answer, only its time. Nor does the cold tier, which
    keeps pages that do not fit into kv_bytes: in memory, or on disk where cold_folder is given. There the next engine
    with the same model and settings finds them again; one engine at a time may have a folder.
    """

    num_threads: int = 2
    max_num_seqs: int = 16  # sequences in one batch
    max_num_batched_tokens: int = 512  # tokens in one batch; longer prompts are computed in parts
    max_tokens_beside_answers: int = 256  # those of prompts, while answers are written: they wait for the whole batch
    kv_bytes: int = 512 << 20  # memory for pages at most
    num_pages: int | None = None  # overrides kv_bytes
    page_size: int = 16  # tokens
    cold_bytes: int = 0  # memory, or disk, of the cold tier at most; 0 is without
    cold_folder: Path | None = None
    k_codec: str = KVSpec.k_codec
    v_codec: str = KVSpec.v_codec
    num_edge_layers: int = KVSpec.num_edge_layers  # first and last ones that keep q8 beside TurboQuant codecs
    is_prefix_cached: bool = True
    eviction: Eviction = "odds"  # which pages that nobody uses go first
    is_kv_cached: bool = True
    product: Literal["f32", "int8"] = "int8"
    isa: str = "auto"
    experts_folder: Path | None = None  # keep experts' weights in a file there: a model larger than the memory runs
    speculation: Speculation = "off"  # where drafts come from
    max_draft_tokens: int = 16  # of one sequence in one step

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; allowed: {allowed}")

        need(1 <= self.num_threads <= MAX_THREADS, "num_threads", f"1 to {MAX_THREADS}")
        need(self.max_num_seqs >= 1, "max_num_seqs", "1 or more")
        need(self.max_num_batched_tokens >= 1, "max_num_batched_tokens", "1 or more")
        need(self.max_tokens_beside_answers >= 1, "max_tokens_beside_answers", "1 or more")
        need(self.kv_bytes >= 1, "kv_bytes", "1 or more")
        need(self.num_pages is None or self.num_pages >= 1, "num_pages", "1 or more, or none to follow from kv_bytes")
        need(self.cold_bytes >= 0, "cold_bytes", "0 (no cold tier) or more")
        is_cached = self.is_prefix_cached and self.is_kv_cached
        need(is_cached or not self.cold_bytes, "cold_bytes", "0 where is_prefix_cached or is_kv_cached is off")
        need(self.cold_folder is None or self.cold_bytes > 0, "cold_folder", "a folder together with cold_bytes")
        need(self.page_size in PAGE_SIZES, "page_size", ", ".join(map(str, PAGE_SIZES)))
        need(self.k_codec in CODECS, "k_codec", ", ".join(CODECS))
        need(self.v_codec in CODECS, "v_codec", ", ".join(CODECS))
        need(self.num_edge_layers >= 0, "num_edge_layers", "0 or more")
        need(self.eviction in get_args(Eviction), "eviction", ", ".join(get_args(Eviction)))
        need(self.product in ("f32", "int8"), "product", "f32, int8")
        is_known = self.speculation in ("off", "prompt-lookup") or self.draft_model is not None
        need(is_known, "speculation", "off, prompt-lookup, or draft:MODEL with a draft model's path or name")
        is_computed = self.draft_model is None or self.is_kv_cached
        need(is_computed, "speculation", "off or prompt-lookup where is_kv_cached is off")
        need(self.max_draft_tokens >= 1, "max_draft_tokens", "1 or more")

    @property
    def draft_model(self) -> str | None:
        """Path or name of the model that drafts."""
        return self.speculation.removeprefix(DRAFT) or None if self.speculation.startswith(DRAFT) else None

    @property
    def kv(self) -> str:
        """The codecs by one name: "q8", or "q8/tq4" for K and V."""
        return codecs_name(self.k_codec, self.v_codec)


def check_generates(model: Model) -> None:
    """Raises InvalidRequest for a classifier, which has no tokens to answer with."""
    if model.config.labels:
        raise InvalidRequest(
            f"{model.name} is a classifier: it answers with one of {len(model.config.labels)} labels and continues no "
            'text; ask it with farthing classify, or serve it by an upstream of kind = "classifier"'
        )


def check_experts_folder(model: Model, folder: Path | None) -> None:
    """Raises InvalidRequest where a dense model's experts are to be kept in a folder."""
    if folder is not None and model.config.experts is None:
        raise InvalidRequest(f"experts_folder is {str(folder)!r}, but {model.name} has no experts; leave it out")


def kv_token_bytes(config: EngineConfig, model: ModelConfig) -> int:
    """Bytes of one token's keys and values, of all layers and kv heads."""
    return _kv_spec(config, model, 0).token_bytes


def kv_spec(config: EngineConfig, model: ModelConfig, num_bytes_beside: int = 0) -> KVSpec:
    """The pages: as many as kv_bytes holds, no more than max_num_seqs sequences of the whole context can use.

    num_bytes_beside: what a draft model's page takes, of which there is one for each.

    Raises CapacityError where kv_bytes does not hold a single page.
    """
    if config.num_pages is not None:
        return _kv_spec(config, model, config.num_pages)
    num_seqs = config.max_num_seqs if config.is_kv_cached else 1
    most = num_seqs * -(-model.max_position_embeddings // config.page_size)
    page_bytes = _kv_spec(config, model, 0).page_bytes + num_bytes_beside
    num_pages = min(config.kv_bytes // page_bytes, most)
    if num_pages < 1:
        raise CapacityError(f"kv_bytes is {config.kv_bytes}; one page of this model takes {page_bytes}: raise it")
    return _kv_spec(config, model, num_pages)


def _kv_spec(config: EngineConfig, model: ModelConfig, num_pages: int) -> KVSpec:
    return KVSpec(
        num_layers=model.num_layers,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        num_pages=num_pages,
        page_size=config.page_size,
        k_codec=config.k_codec,
        v_codec=config.v_codec,
        num_edge_layers=config.num_edge_layers,
        windows=model.windows,
    )
