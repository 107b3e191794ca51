"""KVCache: leases on pages. It manages ids only: the memory is the program's, which fills pages as it runs."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farthing.cache.check import check_pages
from farthing.cache.cold import ColdTier
from farthing.cache.eviction import Eviction, make_policy
from farthing.cache.lease import Lease, Pin
from farthing.cache.pages import PagePool
from farthing.cache.prefix import Key, PrefixTree, UnderWay

__all__ = ["KVCache"]

TokenIds = Sequence[int] | npt.NDArray[np.int32]


class KVCache:
    """Finds prefixes again, grants room, takes pages back. Every page is free, warm (kept for a later hit), pinned
    (kept until it is unpinned) or leased.

        lease = cache.match(token_ids, salt)       a Lease, or UnderWay: another is computing more of this prefix
        cache.announce(lease, token_ids)           "I compute the rest": others that share it wait
        cache.grow(lease, n) -> bool               room for n more tokens
        cache.restore(lease, token_ids)            what the cold tier has of the rest is copied into that room
        cache.commit(lease, token_ids)             these tokens are in their pages now
        pin = cache.pin(lease)                     its complete pages are never evicted, until cache.unpin(pin)
        cache.release(lease)                       complete pages stay warm, the others are free

    A salt is a tenant's. Pages of one salt are never found under another; what comes before `num_public` tokens, in
    whole pages, is found under all. Who calls vouches for both: neither may come from the tenant.

    Without `is_prefix_cached` nothing is found again and nobody waits. `eviction` says which warm pages go first; those
    that are pushed out go to `cold`.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        *,
        is_prefix_cached: bool = True,
        eviction: Eviction = "lru",
        cold: ColdTier | None = None,
    ) -> None:
        assert num_pages >= 1
        assert page_size >= 1
        assert is_prefix_cached or cold is None
        self.page_size = page_size
        self.is_prefix_cached = is_prefix_cached
        self._pool = PagePool(num_pages)
        self._tree = PrefixTree(make_policy(eviction, num_pages))
        self._leases: set[Lease] = set()
        self._pins: set[Pin] = set()
        self._num_taken = 0  # pages granted since every page was looked at
        self._cold = cold

    @property
    def num_pages(self) -> int:
        return self._pool.num_pages

    @property
    def num_free(self) -> int:
        """Pages that hold nothing."""
        return self._pool.num_free

    @property
    def num_available(self) -> int:
        """Pages that could be granted now: free ones and warm ones."""
        return self._pool.num_free + self._tree.num_warm

    @property
    def num_pinned(self) -> int:
        """Pages that stay until they are unpinned, whether or not someone leases them too."""
        return self._tree.num_pinned

    @property
    def num_leased(self) -> int:
        """Pages that someone leases and that are not pinned."""
        return self.num_pages - self.num_available - self.num_pinned

    def room(self, token_ids: TokenIds, salt: str = "", num_public: int = 0) -> int:
        """Pages that a sequence of this prompt can have at most: all but the pinned ones, and those it would find."""
        if not self.num_pinned:
            return self.num_pages
        path, _ = self._tree.walk(self._findable(token_ids, salt, num_public))
        return self.num_pages - self.num_pinned + sum(node.num_pins > 0 for node in path[1:])

    def match(self, token_ids: TokenIds, salt: str = "", num_public: int = 0) -> Lease | UnderWay:
        """Lease the longest cached prefix in whole pages, never the last token (its logits are still to be computed).

        The first num_public tokens are no secret of this salt's (a system prompt that all tenants are given): pages
        that lie wholly among them are shared with every salt. The page behind them, and all that follow, are not.
        If another lease is computing pages that would lengthen the prefix, nothing is leased and UnderWay is returned:
        match again once it `is_over`. Its owner holds pages and waits for nobody, so waiting cannot go in circles.
        """
        path, awaited = self._tree.walk(self._findable(token_ids, salt, num_public))
        if awaited is not None:
            return UnderWay(awaited)
        self._tree.pin(path)
        pages = [node.page for node in path if node.page is not None]
        lease = Lease(path[-1], pages, len(pages) * self.page_size, salt, num_public // self.page_size)
        self._leases.add(lease)
        return lease

    def announce(self, lease: Lease, token_ids: TokenIds) -> None:
        """Say that the holder computes the remaining complete pages of token_ids next; until it commits them (or
        releases, or truncates) others that share them are told to wait."""
        assert lease in self._leases
        assert lease.announced is None
        if self.is_prefix_cached:
            num_complete = len(token_ids) // self.page_size
            keys = self._keys(token_ids, lease.num_shared, num_complete, lease.salt, lease.num_public)
            lease.announced = self._tree.announce(lease.node, keys, lease)

    def grow(self, lease: Lease, n: int) -> bool:
        """Room for n more tokens, evicting warm pages where needed; False, and nothing changed, where none are left."""
        num_tokens = lease.num_tokens + n
        num_new = -(-num_tokens // self.page_size) - lease.num_pages
        if num_new > 0:
            assert lease in self._leases
            if num_new > self.num_available:
                return False
            while self._pool.num_free < num_new:
                self._evict()
            lease.append(self._pool.take(num_new))
            self._num_taken += num_new
        lease.num_tokens = num_tokens
        if not lease.is_counted:  # not when it was matched: who waits for room matches again in every step
            lease.is_counted = True
            self._tree.use(lease.node)
        return True

    def restore(self, lease: Lease, token_ids: TokenIds) -> None:
        """Fill the lease's next pages with what the cold tier has of token_ids, and commit them; never the last token.

        Room for all of token_ids must have been granted.
        """
        if self._cold is None:
            return
        first, end = lease.num_shared, (len(token_ids) - 1) // self.page_size
        keys = self._keys(token_ids, first, end, lease.salt, lease.num_public)
        num_restored = self._cold.restore(lease.node, keys, lease.page_table[first:end].tolist())
        self.commit(lease, token_ids[: (first + num_restored) * self.page_size])

    def save(self) -> None:
        """Copy the complete pages of the hot pool into the cold tier, those used longest ago first."""
        if self._cold is None:
            return
        # A page after those that follow it: it is needed whenever they are.
        nodes = [node for node in reversed(list(self._tree.nodes())) if node.page is not None]
        nodes.sort(key=lambda node: (node.num_leases > 0, node.last_used))
        for node in nodes[max(0, len(nodes) - self._cold.num_slots) :]:
            self._cold.keep(node)

    def commit(self, lease: Lease, token_ids: TokenIds) -> None:
        """The sequence's first len(token_ids) tokens are computed: complete pages among them can be found from now on.

        Where the same page is already there, the lease takes that one (equal bit for bit) and gives its own back.
        """
        num_complete = len(token_ids) // self.page_size
        if num_complete <= lease.num_shared or not self.is_prefix_cached:
            return
        assert lease in self._leases
        assert len(token_ids) <= lease.num_tokens
        for key in self._keys(token_ids, lease.num_shared, num_complete, lease.salt, lease.num_public):
            known = lease.node.children.get(key)
            if known is not None and isinstance(known.owner, Lease) and known.owner is not lease:
                self._withdraw(known.owner)
            elif known is None and lease.announced is not None:
                self._withdraw(lease)  # it took another way than it had announced
            page = int(lease.page_table[lease.num_shared])
            lease.node = self._tree.add(lease.node, key, page)
            if lease.node is lease.announced:
                lease.announced = None
            if (kept := lease.node.page) is not None and kept != page:
                lease.page_table[lease.num_shared] = kept
                self._pool.give_back([page])
            lease.num_shared += 1

    def truncate(self, lease: Lease, n: int) -> int:
        """Keep at most n tokens, giving back what lies behind them; how many are kept.

        That is n, or less where n falls into a page that others may read: it cannot be written again, so it goes whole.
        """
        assert lease in self._leases
        assert 0 <= n <= lease.num_tokens
        self._withdraw(lease)
        if n < lease.num_shared * self.page_size:
            n -= n % self.page_size
        num_kept = -(-n // self.page_size)
        own_from = max(num_kept, lease.num_shared)
        self._pool.give_back(lease.page_table[own_from : lease.num_pages].tolist())
        while lease.num_shared > num_kept:
            node = lease.node
            assert node.parent is not None
            lease.node = node.parent
            lease.num_shared -= 1
            self._tree.unpin(node)
        lease.num_pages, lease.num_tokens = num_kept, n
        lease.num_public = min(lease.num_public, n // self.page_size)  # what comes there next may be the tenant's own
        return n

    def release(self, lease: Lease) -> None:
        """Give everything back; the lease must not be used again."""
        self.truncate(lease, 0)
        self._leases.remove(lease)
        self._tree.unpin(lease.node)

    def pin(self, lease: Lease) -> Pin:
        """Keep the complete pages that the lease has committed, whatever becomes of it."""
        assert lease in self._leases
        pin = Pin(lease.node)
        self._tree.keep(pin.node)
        self._pins.add(pin)
        return pin

    def unpin(self, pin: Pin) -> None:
        """Its pages are warm from now on, but for those that another has pinned or leased."""
        self._pins.remove(pin)
        self._tree.unkeep(pin.node)

    def check(self) -> None:
        """Raise AssertionError unless every page is free, warm, pinned or leased, exactly once, and all counts agree.

        Looks at every page: 18 ms for 40,000.
        """
        self._num_taken = 0
        check_pages(self._pool, self._tree, self._leases, self._pins, self.page_size)

    def check_idle(self) -> None:
        """Raise AssertionError unless every page is free, warm or pinned: nobody leases or computes one.

        By counts, which costs nothing; and by `check`, whenever an eighth of all pages have been granted since it ran,
        which costs less than a hundredth of computing what was written into those.
        """
        assert not self._leases, f"{len(self._leases)} leases have been left behind"
        assert self._tree.num_under_way == 0, "a page is under way for nobody"
        assert self.num_leased == 0, f"{self.num_leased} pages have been left behind"
        if 8 * self._num_taken >= self.num_pages:
            self.check()

    def _evict(self) -> None:
        node = self._tree.evict()
        assert node.page is not None
        self._pool.give_back([node.page])
        if self._cold is not None:
            self._cold.keep(node)  # nobody writes to a free page before it is taken

    def _withdraw(self, lease: Lease) -> None:
        if lease.announced is not None:
            self._tree.withdraw(lease.announced)
            lease.announced = None

    def _findable(self, token_ids: TokenIds, salt: str, num_public: int) -> list[Key]:
        """Keys of the pages that a sequence may find: complete ones, without its last token."""
        if not self.is_prefix_cached:
            return []
        return self._keys(token_ids, 0, (len(token_ids) - 1) // self.page_size, salt, num_public // self.page_size)

    def _keys(self, token_ids: TokenIds, start: int, end: int, salt: str, num_public: int) -> list[Key]:
        """Keys of pages start .. end - 1: their exact tokens as bytes of int32; with the salt in page num_public."""
        size = self.page_size
        tokens = np.asarray(token_ids[start * size : end * size], np.int32).tobytes()
        keys: list[Key] = [tokens[i : i + 4 * size] for i in range(0, len(tokens), 4 * size)]
        if start <= num_public < end:
            keys[num_public - start] = (salt, tokens[4 * size * (num_public - start) :][: 4 * size])
        return keys
