"""Holds the pages to account: each is free, warm, pinned or leased, exactly once, and all counts agree."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from farthing.cache.lease import Lease, Pin
from farthing.cache.pages import PagePool
from farthing.cache.prefix import Node, PrefixTree

__all__ = ["check_pages"]


def check_pages(pool: PagePool, tree: PrefixTree, leases: Iterable[Lease], pins: Iterable[Pin], page_size: int) -> None:
    """Raise AssertionError where they do not. Looks at every page: tens of milliseconds for tens of thousands."""
    leased: Counter[Node] = Counter()
    pinned: Counter[Node] = Counter()
    own: list[int] = []
    for lease in leases:
        path = _path(lease.node)
        leased.update(path)
        table = lease.page_table.tolist()
        assert [node.page for node in path] == table[: lease.num_shared], "page table and prefix tree differ"
        assert lease.num_tokens <= lease.num_pages * page_size
        own += table[lease.num_shared : lease.num_pages]
    for pin in pins:
        pinned.update(_path(pin.node))
    in_tree, num_warm = _check_nodes(tree, set(leases), leased, pinned)
    assert num_warm == tree.num_warm
    assert len(pinned) == tree.num_pinned
    free = pool.free_pages()
    assert len(free) == pool.num_free
    times = np.bincount(np.array([*free, *in_tree, *own], np.int64), minlength=pool.num_pages)  # [num_pages]
    assert len(times) == pool.num_pages, "a page that there is not"
    assert (times == 1).all(), "a page is lost or held twice"


def _check_nodes(
    tree: PrefixTree, leases: set[Lease], leased: Counter[Node], pinned: Counter[Node]
) -> tuple[list[int], int]:
    """The pages in the tree, and how many of them are warm."""
    in_tree: list[int] = []
    num_warm = num_under_way = 0
    for node in tree.nodes():
        assert node.parent is not None
        if node.page is None:
            num_under_way += 1
            assert node.owner in leases, "a page is under way for nobody"
            assert node.num_leases == node.num_pins == 0
            assert node.parent.owner is node.owner or node.parent.num_leases, "a page under way stands on a warm one"
            continue
        in_tree.append(node.page)
        if node.num_leases == 0:
            num_warm += 1
        else:
            assert node.parent.num_leases, "a leased page stands on a warm one"
        assert node.owner is None
        assert node.num_pins == pinned[node], "a page is pinned for nobody"
        assert node.num_leases == leased[node] + node.num_pins, "a page is leased by nobody"
    assert num_under_way == tree.num_under_way
    return in_tree, num_warm


def _path(last: Node) -> list[Node]:
    """The pages from the first to `last`; none for the root."""
    path = []
    while last.parent is not None:
        path.append(last)
        last = last.parent
    return path[::-1]
