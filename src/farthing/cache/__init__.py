"""Which page holds what: prefixes found again, room granted, pages given back. The memory itself is the program's."""

from farthing.cache.cold import ColdStats, ColdTier
from farthing.cache.cold_disk import DiskStore
from farthing.cache.cold_file import Layout
from farthing.cache.cold_memory import MemoryStore
from farthing.cache.eviction import Eviction
from farthing.cache.kv_cache import KVCache
from farthing.cache.lease import Lease, Pin
from farthing.cache.prefix import UnderWay

__all__ = [
    "ColdStats",
    "ColdTier",
    "DiskStore",
    "Eviction",
    "KVCache",
    "Layout",
    "Lease",
    "MemoryStore",
    "Pin",
    "UnderWay",
]
