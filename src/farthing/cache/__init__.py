"""Which page holds what: prefixes found again, room granted, pages given back. The memory itself is the program's."""

from farthing.cache.eviction import Eviction
from farthing.cache.kv_cache import KVCache, Lease, Pin
from farthing.cache.prefix import UnderWay

__all__ = ["Eviction", "KVCache", "Lease", "Pin", "UnderWay"]
