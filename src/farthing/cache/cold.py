"""The cold tier: pages that were pushed out of the hot pool are kept, unchanged, and come back when they are asked for.

A page is found by a digest that stands for everything its codes depend on:

    fingerprint (model, weights, codecs, build, instruction set) -> + tokens of page 0 -> page 0 -> …

The salt of a tenant goes into its first page, as in the prefix tree. A hit compares the exact tokens too. So a page of
another tenant, model or build cannot be found at all, and one that comes back is the one that was computed, byte for
byte.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.cache.prefix import Key, Node, tokens_of
from farthing.cache.slots import Record, Store

__all__ = ["ColdStats", "ColdTier"]

_WEIGHT = 0.2  # of the newest measurement in a running mean


@dataclass(frozen=True)
class ColdStats:
    """Counts since the engine was made, but for the first two, which are as of now."""

    num_pages: int = 0
    num_bytes: int = 0  # of the budget
    num_kept_pages: int = 0  # copied into the tier
    num_restored_pages: int = 0
    num_damaged: int = 0  # pages and files found damaged and left out
    num_errors: int = 0  # of the disk; the first one switches the tier off
    restore_s: float = 0.0  # bringing pages back
    keep_s: float = 0.0


class ColdTier:
    """Keeps pages of `pages` in `store`. Errors of the medium switch it off and go no further: it is only a cache.

    pages: the program's memory, [num_pages, page_bytes]. clock_ns: monotonic, in nanoseconds.
    """

    def __init__(
        self,
        store: Store,
        pages: npt.NDArray[np.uint8],
        page_size: int,
        fingerprint: bytes,
        clock_ns: Callable[[], int],
    ) -> None:
        self._store, self._pages, self._page_size = store, pages, page_size
        self._fingerprint, self._clock_ns = fingerprint, clock_ns
        self._is_on = True
        self._num_kept = self._num_restored = self._num_errors = 0
        self._keep_ns = self._restore_ns = self._unseen_ns = 0
        self._page_ns = self._token_ns = 0.0  # running means: bringing a page back, computing a token; 0 is unknown

    @property
    def num_slots(self) -> int:
        """Pages that it can hold."""
        return self._store.num_slots if self._is_on else 0

    def stats(self) -> ColdStats:
        num_pages, num_bytes = (len(self._store), self._store.num_bytes) if self._is_on else (0, 0)
        return ColdStats(
            num_pages,
            num_bytes,
            self._num_kept,
            self._num_restored,
            self._store.num_damaged,
            self._num_errors,
            self._restore_ns * 1e-9,
            self._keep_ns * 1e-9,
        )

    def keep(self, node: Node) -> None:
        """Copy a complete page, unless it is there already; either way it is now the one used last."""
        assert node.page is not None
        if not self._is_on:
            return
        started_ns = self._clock_ns()
        digest = self._digest(node)
        try:
            if digest in self._store:
                self._store.touch(digest)
            else:
                assert node.parent is not None
                record = Record(digest, self._digest(node.parent), node.tokens)
                self._num_kept += self._store.put(record, self._pages[node.page])
        except OSError as error:
            self._switch_off(error)
        self._keep_ns += self._passed(started_ns)

    def restore(self, node: Node, keys: Sequence[Key], pages: Sequence[int]) -> int:
        """Bring back the pages that follow `node`: of keys[i] into pages[i], up to the first that is not there; how
        many. None where bringing them back is expected to take longer than computing them."""
        if not self._is_on:
            return 0
        started_ns = self._clock_ns()
        records = self._follow(node, keys)
        if not records or not self._is_worthwhile():
            return 0
        num_restored = 0
        try:
            self._store.will_get(record.digest for record in records)
            for record, page in zip(records, pages, strict=False):
                if not self._store.get(record, self._pages[page]):
                    break
                num_restored += 1
            for record in reversed(records[:num_restored]):  # what stands in front is needed whenever this is
                self._store.touch(record.digest)
        except OSError as error:
            self._switch_off(error)
        self._num_restored += num_restored
        passed_ns = self._passed(started_ns)
        self._restore_ns += passed_ns
        self._page_ns = _mean(self._page_ns, passed_ns / max(num_restored, 1))
        return num_restored

    def learn(self, num_tokens: int, elapsed_ns: int) -> None:
        """A step took this long, in which the tier was used or not. Small steps say nothing of what a prompt costs."""
        elapsed_ns -= self._unseen_ns
        self._unseen_ns = 0
        if num_tokens >= 2 * self._page_size and elapsed_ns > 0:
            self._token_ns = _mean(self._token_ns, elapsed_ns / num_tokens)

    def close(self) -> None:
        """Let go of the medium; nothing is kept or found from now on."""
        if self._is_on:
            self._is_on = False
            self._store.close()

    def _is_worthwhile(self) -> bool:
        if not self._token_ns or self._page_ns < self._page_size * self._token_ns:
            return True
        self._page_ns *= 1 - _WEIGHT / 2  # so that after a while it is tried, and measured, again
        return False

    def _follow(self, node: Node, keys: Sequence[Key]) -> list[Record]:
        records: list[Record] = []
        parent = self._digest(node) if keys else b""
        for key in keys:
            digest = self._hash(parent, key)
            if digest not in self._store:
                break
            records.append(Record(digest, parent, tokens_of(key)))
            parent = digest
        return records

    def _digest(self, node: Node) -> bytes:
        """Of everything from the root to the end of this page; nodes remember theirs."""
        path = [node]
        while path[-1].digest is None and path[-1].parent is not None:
            path.append(path[-1].parent)
        for at in reversed(path):
            if at.digest is None:
                parent = b"" if at.parent is None else at.parent.digest
                assert parent is not None
                at.digest = self._hash(parent, at.key)
        assert node.digest is not None
        return node.digest

    def _hash(self, parent: bytes, key: Key) -> bytes:
        """A page has as many tokens as any other, so what follows them is the salt; `person` tells none from ""."""
        salt, person = b"", b"page"
        if not isinstance(key, bytes):
            salt, person = key[0].encode("utf-8", "surrogatepass"), b"salted"
        text = parent + tokens_of(key) + salt
        return hashlib.blake2b(text, digest_size=32, key=self._fingerprint, person=person).digest()

    def _passed(self, started_ns: int) -> int:
        passed_ns = self._clock_ns() - started_ns
        self._unseen_ns += passed_ns
        return passed_ns

    def _switch_off(self, error: OSError) -> None:
        self._num_errors += 1
        self.close()
        warnings.warn(
            f"the cold tier is switched off: {error.strerror or error}. Answers stay the same; pages that do not fit "
            "into memory are computed again. Free or check the disk, then start again.",
            RuntimeWarning,
            stacklevel=2,
        )


def _mean(mean: float, newest: float) -> float:
    return newest if not mean else (1 - _WEIGHT) * mean + _WEIGHT * newest
