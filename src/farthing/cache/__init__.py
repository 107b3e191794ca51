"""Which page holds what: prefixes found again, room granted, pages given back. The memory itself is the program's."""

from farthing.cache.eviction import DEFAULT_EVICTION, Eviction
from farthing.cache.kv_cache import KVCache, Lease
from farthing.cache.prefix import UnderWay

__all__ = ["DEFAULT_EVICTION", "Eviction", "KVCache", "Lease", "UnderWay"]
