"""The prefix tree: a node is one complete page, its key the page's exact tokens, so that a hit is never a guess.

                    root                          Keys without a salt from the root on: public pages, for everyone.
             /        |         \\                 A key with a salt: everything below it is that tenant's own.
    [You are …]  ("a", [Hi …])  ("b", [Hi …])
       |      \\                                   leased: num_leases > 0; a lease pins its whole path.
  ("a", […])  ("b", […])                          pinned: num_pins > 0; it stays when its leases are gone.
       |          |                               warm: num_leases == 0; evicted leaf first, in eviction.py's order.
      […]     under way […]                       under way: no page yet; `owner` is computing it.

A path has one key with a salt at most, where its public part ends. Keys are compared whole, the salt beside the tokens
and not mixed with them, so neither salts nor tokens can be chosen to look like others.

What is leased has only leased ancestors; what is under way stands below a node that its owner pins. So every warm node
can be evicted, once its descendants are.
"""

import heapq
from collections.abc import Hashable, Iterator

from farthing.cache.eviction import Policy

__all__ = ["Key", "Node", "PrefixTree", "UnderWay", "tokens_of"]

Key = bytes | tuple[str, bytes]  # the page's tokens, int32; with the salt where a tenant's own pages begin


def tokens_of(key: Key) -> bytes:
    """A page's tokens, int32."""
    return key if isinstance(key, bytes) else key[1]


class Node:
    """One complete page of a prefix; `page` is None for the root and for a page that is still being computed."""

    __slots__ = (
        "children",
        "digest",
        "is_queued",
        "key",
        "last_used",
        "num_leases",
        "num_pins",
        "num_uses",
        "owner",
        "page",
        "parent",
        "rank",
        "trail",
        "used_at",
    )

    def __init__(self, key: Key, parent: "Node | None", page: int | None, owner: Hashable | None) -> None:
        self.key = key
        self.parent = parent
        self.page = page
        self.digest: bytes | None = None  # of the path from the root, once the cold tier has asked
        self.owner = owner  # who computes it, while it is under way
        self.children: dict[Key, Node] = {}
        self.num_leases = 0  # pins among them
        self.num_pins = 0
        self.last_used = 0
        self.rank = 0.0  # the lowest is evicted first
        self.trail: int = hash(
            key if parent is None else (parent.trail, key)
        )  # of the path; of use in this process only
        self.num_uses = self.used_at = 0  # the policy's
        self.is_queued = False

    @property
    def tokens(self) -> bytes:
        return tokens_of(self.key)


class UnderWay:
    """More of a prefix is being computed by another lease. `is_over` once that is done or has been given up."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def is_over(self) -> bool:
        return self._node.owner is None


class PrefixTree:
    """Nodes, pins and the order of eviction. Pages come from and go back to the caller."""

    def __init__(self, policy: Policy) -> None:
        self.num_warm = 0
        self.num_pinned = 0
        self.num_under_way = 0
        self._policy = policy
        self._root = Node(b"", None, None, None)
        self._leaves: list[tuple[float, int, Node]] = []  # heap by rank: warm leaves, stale entries
        self._clock = 0

    def walk(self, keys: list[Key]) -> tuple[list[Node], Node | None]:
        """Nodes from the root to the last page that is there, and the last page under way behind it, if any."""
        path = [self._root]
        awaited = None
        node = self._root
        for key in keys:
            child = node.children.get(key)
            if child is None:
                break
            node = child
            if node.owner is not None:
                awaited = node
            else:
                path.append(node)
        return path, awaited

    def pin(self, path: list[Node]) -> None:
        for node in path:
            if node.num_leases == 0 and node.page is not None:
                self.num_warm -= 1
            node.num_leases += 1

    def unpin(self, node: Node) -> None:
        """Let go of one node; callers go from the deepest towards the root."""
        node.num_leases -= 1
        assert node.num_leases >= 0, "a page was given back twice"
        if node.num_leases == 0:
            if node.page is not None:
                self.num_warm += 1
                self._clock += 1
                node.last_used = self._clock
                node.rank = self._clock + self._policy.credit(node)
            self._settle(node)

    def keep(self, last: Node) -> None:
        """Pin all pages up to `last`, whether or not anyone has a lease on them, until `unkeep`."""
        path = list(_upwards(last))
        self.pin(path)
        for node in path:
            node.num_pins += 1
            self.num_pinned += node.num_pins == 1 and node.page is not None

    def unkeep(self, last: Node) -> None:
        for node in list(_upwards(last)):
            node.num_pins -= 1
            assert node.num_pins >= 0, "a prefix was unpinned twice"
            self.num_pinned -= node.num_pins == 0 and node.page is not None
            self.unpin(node)

    def add(self, parent: Node, key: Key, page: int) -> Node:
        """The node for `key` under `parent`, pinned once more: with this page if it was new or under way."""
        child = parent.children.get(key)
        if child is None:
            child = parent.children[key] = Node(key, parent, page, None)
            child.num_leases = 1
        elif child.owner is not None:
            child.page, child.owner, child.num_leases = page, None, 1
            self.num_under_way -= 1
        else:
            self.pin([child])
        self._policy.used(child, self._clock)
        return child

    def use(self, last: Node) -> None:
        """Tell the policy that someone goes on from `last`, and so uses its path."""
        node = last
        while node.parent is not None:
            self._policy.used(node, self._clock)
            node = node.parent

    def announce(self, parent: Node, keys: list[Key], owner: Hashable) -> Node | None:
        """Note that `owner`, which pins `parent`, computes the pages below; the last of them, None if another does."""
        if not keys or keys[0] in parent.children:
            return None
        node = parent
        for key in keys:
            child = node.children[key] = Node(key, node, None, owner)
            node = child
        self.num_under_way += len(keys)
        return node

    def withdraw(self, last: Node) -> None:
        """Forget the pages under way, from `last` up to the node that their owner pins: it gave up, or was late."""
        node, owner = last, last.owner
        assert owner is not None
        while node.owner is owner:
            assert node.parent is not None
            assert not node.children
            del node.parent.children[node.key]
            node.owner = None
            self.num_under_way -= 1
            node = node.parent

    def evict(self) -> Node:
        """Take the warm leaf that is worth least out of the tree; there must be a warm page."""
        while True:
            rank, _, node = heapq.heappop(self._leaves)
            node.is_queued = False
            if node.num_leases or node.children:
                continue
            if node.rank != rank:
                self._settle(node)
                continue
            assert node.parent is not None
            assert node.page is not None
            parent = node.parent
            del parent.children[node.key]
            self.num_warm -= 1
            parent.last_used = max(parent.last_used, node.last_used)
            parent.rank = max(parent.rank, node.rank)
            self._policy.evicted(node)
            self._settle(parent)
            return node

    def nodes(self) -> Iterator[Node]:
        """Every node but the root, parents first."""
        todo = list(self._root.children.values())
        while todo:
            node = todo.pop()
            yield node
            todo.extend(node.children.values())

    def _settle(self, node: Node) -> None:
        """Queue a warm leaf for eviction."""
        if node.num_leases or node.children or node.is_queued or node.page is None:
            return
        node.is_queued = True
        heapq.heappush(self._leaves, (node.rank, node.page, node))


def _upwards(last: Node) -> Iterator[Node]:
    """`last` and what it stands below, the root included."""
    node: Node | None = last
    while node is not None:
        yield node
        node = node.parent
