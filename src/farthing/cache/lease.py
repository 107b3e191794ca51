"""Holds on pages: a sequence's lease, and the pin of a prefix."""

import numpy as np

from farthing.cache.prefix import Node

__all__ = ["Lease", "Pin"]


class Lease:
    """One sequence's hold on its pages. The first `num_shared` pages stand in the prefix tree, the others are its own.

    page_table[p] is the page of positions [p * page_size, (p + 1) * page_size), for p < num_pages; entries change only
    in grow, commit and truncate. The first `num_public` pages are everyone's, or will be; the others are of `salt`.
    """

    __slots__ = (
        "announced",
        "is_counted",
        "node",
        "num_pages",
        "num_public",
        "num_shared",
        "num_tokens",
        "page_table",
        "salt",
    )

    def __init__(self, node: Node, pages: list[int], num_tokens: int, salt: str, num_public: int) -> None:
        self.salt = salt
        self.num_public = num_public
        self.node = node  # the last page in the tree, or its root
        self.announced: Node | None = None  # the last page that this lease said it would compute
        self.is_counted = not pages  # whether its use of the pages that it found has been counted
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


class Pin:
    """A prefix that stays in its pages until it is unpinned."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node  # its last page
