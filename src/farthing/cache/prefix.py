"""The prefix tree: a node is one complete page, its key the page's exact tokens, so that a hit is never a guess.

            root of salt "a"                   Every salt has a tree of its own.
             /            \\                    leased: num_leases > 0; a lease pins its whole path.
    page 3 [You are …]   page 8 [Translate …]  warm: num_leases == 0; evicted leaf first, least recently used first.
       |           \\                           under way: no page yet; `owner` is computing it.
    page 5 […]    under way […]

What is leased has only leased ancestors; what is under way stands below a node that its owner pins. So every warm node
can be evicted, once its descendants are.
"""

import heapq
from collections.abc import Hashable, Iterator

__all__ = ["Node", "PrefixTree", "UnderWay"]


class Node:
    """One complete page of a prefix; `page` is None for a root and for a page that is still being computed."""

    __slots__ = ("children", "digest", "is_queued", "key", "last_used", "num_leases", "owner", "page", "parent")

    def __init__(self, key: bytes, parent: "Node | None", page: int | None, owner: Hashable | None) -> None:
        self.key = key  # the page's tokens, int32
        self.parent = parent
        self.page = page
        self.digest: bytes | None = None  # of the path from the root, once the cold tier has asked
        self.owner = owner  # who computes it, while it is under way
        self.children: dict[bytes, Node] = {}
        self.num_leases = 0
        self.last_used = 0
        self.is_queued = False


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

    def __init__(self) -> None:
        self.num_warm = 0
        self._roots: dict[bytes, Node] = {}
        self._leaves: list[tuple[int, int, Node]] = []  # heap by last_used: warm leaves, stale entries
        self._clock = 0

    def walk(self, keys: list[bytes], salt: str) -> tuple[list[Node], Node | None]:
        """Nodes from the root to the last page that is there, and the last page under way behind it, if any."""
        path = [self._root(salt)]
        awaited = None
        node = path[0]
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
            self._settle(node)

    def add(self, parent: Node, key: bytes, page: int) -> Node:
        """The node for `key` under `parent`, pinned once more: with this page if it was new or under way."""
        child = parent.children.get(key)
        if child is None:
            child = parent.children[key] = Node(key, parent, page, None)
            child.num_leases = 1
        elif child.owner is not None:
            child.page, child.owner, child.num_leases = page, None, 1
        else:
            self.pin([child])
        return child

    def announce(self, parent: Node, keys: list[bytes], owner: Hashable) -> Node | None:
        """Note that `owner`, which pins `parent`, computes the pages below; the last of them, None if another does."""
        if not keys or keys[0] in parent.children:
            return None
        node = parent
        for key in keys:
            child = node.children[key] = Node(key, node, None, owner)
            node = child
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
            node = node.parent

    def evict(self) -> Node:
        """Take the warm leaf used longest ago out of the tree; there must be a warm page."""
        while True:
            last_used, _, node = heapq.heappop(self._leaves)
            node.is_queued = False
            if node.num_leases or node.children:
                continue
            if node.last_used != last_used:
                self._settle(node)
                continue
            assert node.parent is not None
            assert node.page is not None
            parent = node.parent
            del parent.children[node.key]
            self.num_warm -= 1
            parent.last_used = max(parent.last_used, node.last_used)
            self._settle(parent)
            return node

    def nodes(self) -> Iterator[Node]:
        """Every node but the roots, parents first."""
        todo = [child for root in self._roots.values() for child in root.children.values()]
        while todo:
            node = todo.pop()
            yield node
            todo.extend(node.children.values())

    def num_roots(self) -> int:
        return len(self._roots)

    def _root(self, salt: str) -> Node:
        key = salt.encode("utf-8", "surrogatepass")
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = Node(key, None, None, None)
        return root

    def _settle(self, node: Node) -> None:
        """Queue a warm leaf for eviction; drop the root of a salt that nobody uses."""
        if node.num_leases or node.children:
            return
        if node.parent is None:
            self._roots.pop(node.key, None)
        elif not node.is_queued and node.page is not None:
            node.is_queued = True
            heapq.heappush(self._leaves, (node.last_used, node.page, node))
