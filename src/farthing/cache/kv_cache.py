"""KVCache: leases on pages. It manages ids only: the memory is the program's, which fills pages as it runs."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farthing.cache.cold import ColdTier
from farthing.cache.pages import PagePool
from farthing.cache.prefix import Node, PrefixTree, UnderWay

__all__ = ["KVCache", "Lease"]

TokenIds = Sequence[int] | npt.NDArray[np.int32]


class Lease:
    """One sequence's hold on its pages. The first `num_shared` pages stand in the prefix tree, the others are its own.

    page_table[p] is the page of positions [p * page_size, (p + 1) * page_size), for p < num_pages; entries change only
    in grow, commit and truncate.
    """

    __slots__ = ("announced", "node", "num_pages", "num_shared", "num_tokens", "page_table")

    def __init__(self, node: Node, pages: list[int], num_tokens: int) -> None:
        self.node = node  # the last page in the tree, or its root
        self.announced: Node | None = None  # the last page that this lease said it would compute
        self.num_shared = self.num_pages = len(pages)
        self.num_tokens = num_tokens  # tokens that there is room for by agreement
        self.page_table = np.zeros(max(8, 2 * len(pages)), np.int32)  # [room], grows by doubling
        self.page_table[: len(pages)] = pages

    def append(self, pages: list[int]) -> None:
        end = self.num_pages + len(pages)
        if end > len(self.page_table):
            table = np.zeros(2 * end, np.int32)
            table[: self.num_pages] = self.page_table[: self.num_pages]
            self.page_table = table
        self.page_table[self.num_pages : end] = pages
        self.num_pages = end


class KVCache:
    """Finds prefixes again, grants room, takes pages back. Every page is free, warm (kept for a later hit) or leased.

        lease = cache.match(token_ids, salt)       a Lease, or UnderWay: another is computing more of this prefix
        cache.announce(lease, token_ids)           "I compute the rest": others that share it wait
        cache.grow(lease, n) -> bool               room for n more tokens
        cache.restore(lease, token_ids)            what the cold tier has of the rest is copied into that room
        cache.commit(lease, token_ids)             these tokens are in their pages now
        cache.release(lease)                       complete pages stay warm, the others are free

    Without `is_prefix_cached` nothing is found again and nobody waits. A page that is pushed out goes to `cold`.
    """

    def __init__(
        self, num_pages: int, page_size: int, *, is_prefix_cached: bool = True, cold: ColdTier | None = None
    ) -> None:
        assert num_pages >= 1
        assert page_size >= 1
        assert is_prefix_cached or cold is None
        self.page_size = page_size
        self.is_prefix_cached = is_prefix_cached
        self._pool = PagePool(num_pages)
        self._tree = PrefixTree()
        self._leases: set[Lease] = set()
        self._cold = cold

    @property
    def num_pages(self) -> int:
        return self._pool.num_pages

    @property
    def num_available(self) -> int:
        """Pages that could be granted now: free ones and warm ones."""
        return self._pool.num_free + self._tree.num_warm

    @property
    def num_leased(self) -> int:
        return self.num_pages - self.num_available

    def match(self, token_ids: TokenIds, salt: str = "") -> Lease | UnderWay:
        """Pin the longest cached prefix in whole pages, never the last token (its logits are still to be computed).

        If another lease is computing pages that would lengthen the prefix, nothing is pinned and UnderWay is returned:
        match again once it `is_over`. Its owner holds pages and waits for nobody, so waiting cannot go in circles.
        """
        keys = self._keys(token_ids, 0, (len(token_ids) - 1) // self.page_size) if self.is_prefix_cached else []
        path, awaited = self._tree.walk(keys, salt)
        if awaited is not None:
            return UnderWay(awaited)
        self._tree.pin(path)
        pages = [node.page for node in path if node.page is not None]
        lease = Lease(path[-1], pages, len(pages) * self.page_size)
        self._leases.add(lease)
        return lease

    def announce(self, lease: Lease, token_ids: TokenIds) -> None:
        """Say that the holder computes the remaining complete pages of token_ids next; until it commits them (or
        releases, or truncates) others that share them are told to wait."""
        assert lease in self._leases
        assert lease.announced is None
        if self.is_prefix_cached:
            keys = self._keys(token_ids, lease.num_shared, len(token_ids) // self.page_size)
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
        lease.num_tokens = num_tokens
        return True

    def restore(self, lease: Lease, token_ids: TokenIds) -> None:
        """Fill the lease's next pages with what the cold tier has of token_ids, and commit them; never the last token.

        Room for all of token_ids must have been granted.
        """
        if self._cold is None:
            return
        first, end = lease.num_shared, (len(token_ids) - 1) // self.page_size
        keys = self._keys(token_ids, first, end)
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
        for key in self._keys(token_ids, lease.num_shared, num_complete):
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
        return n

    def release(self, lease: Lease) -> None:
        """Give everything back; the lease must not be used again."""
        self.truncate(lease, 0)
        self._leases.remove(lease)
        self._tree.unpin(lease.node)

    def check(self) -> None:
        """Raise AssertionError unless every page is free, warm or leased, exactly once, and all counts agree."""
        free = self._pool.free_pages()
        warm, in_tree, pins = [], [], {}
        for node in self._tree.nodes():
            if node.page is None:
                assert node.owner in self._leases, "a page is under way for nobody"
                assert node.num_leases == 0
                continue
            assert node.owner is None
            pins[node] = node.num_leases
            in_tree.append(node.page)
            if node.num_leases == 0:
                warm.append(node.page)
                assert all(child.num_leases == 0 and child.page is not None for child in node.children.values())
        own = []
        for lease in self._leases:
            own += lease.page_table[lease.num_shared : lease.num_pages].tolist()
            assert lease.num_tokens <= lease.num_pages * self.page_size
            node, pages = lease.node, []
            while node.parent is not None:
                pages.append(node.page)
                pins[node] -= 1
                node = node.parent
            assert pages[::-1] == lease.page_table[: lease.num_shared].tolist(), "page table and prefix tree differ"
        assert not any(pins.values()), "a page is pinned by nobody"
        assert len(warm) == self._tree.num_warm
        assert len(free) == self._pool.num_free
        assert sorted([*free, *in_tree, *own]) == list(range(self.num_pages)), "a page is lost or held twice"
        assert self._tree.num_roots() == 0 or in_tree or self._leases, "a salt is kept for nothing"

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

    def _keys(self, token_ids: TokenIds, start: int, end: int) -> list[bytes]:
        """The exact tokens of pages start .. end - 1, each as the bytes of its int32."""
        size = self.page_size
        tokens = np.asarray(token_ids[start * size : end * size], np.int32).tobytes()
        return [tokens[i : i + 4 * size] for i in range(0, len(tokens), 4 * size)]
