"""Sets up an engine's cold tier: what must be equal for pages to be equal, and where they are kept."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

from farthing import kernels
from farthing.cache import ColdTier, DiskStore, Layout, MemoryStore
from farthing.engine.calibration import CALIBRATION
from farthing.engine.config import EngineConfig
from farthing.errors import CapacityError
from farthing.kernels import Program
from farthing.kernels.plan import KVSpec, Plan
from farthing.models import Model

__all__ = ["open_cold_tier"]


def open_cold_tier(
    config: EngineConfig, model: Model, plan: Plan, kv: KVSpec, program: Program, clock_ns: Callable[[], int]
) -> ColdTier | None:
    """The tier that config asks for, None where it asks for none.

    Raises CapacityError where cold_bytes does not hold a page, InvalidRequest where cold_folder cannot be used.
    """
    if not config.cold_bytes:
        return None
    page_bytes = program.pages.shape[1]
    fingerprint = _fingerprint(model, plan, kv, program)
    layout = Layout(fingerprint, page_bytes, 4 * kv.page_size)
    least = layout.file_bytes(1)
    if config.cold_bytes < least:
        raise CapacityError(
            f"cold_bytes is {config.cold_bytes}; one page of this model takes {least} with what belongs to it: raise "
            "it, or set it to 0 for no cold tier"
        )
    if config.cold_folder is None:
        store: MemoryStore | DiskStore = MemoryStore(config.cold_bytes, page_bytes, layout.head_bytes)
    else:
        store = DiskStore(config.cold_folder, config.cold_bytes, layout)
    return ColdTier(store, program.pages, kv.page_size, fingerprint, clock_ns)


def _fingerprint(model: Model, plan: Plan, kv: KVSpec, program: Program) -> bytes:
    """32 bytes of everything that a page's codes depend on, but for the tokens: weights, plan, codecs, page size, build
    and instruction set. How many pages and threads there are changes no code (law 1)."""
    parts = (
        model.identity(),
        repr(plan),
        repr(replace(kv, num_pages=1)),
        program.pages.shape[1],
        program.isa,
        kernels.build(),
        CALIBRATION,
    )
    return hashlib.blake2b(repr(parts).encode(), digest_size=32, person=b"farthing pages").digest()
