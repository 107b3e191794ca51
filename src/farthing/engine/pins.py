"""Prefixes that stay in their pages until they are unpinned, and the room they leave to others."""

from collections.abc import Iterable

from farthing.cache import KVCache, Lease, Pin
from farthing.engine.prompt import Prompt
from farthing.engine.sequence import Sequence
from farthing.errors import CapacityError

__all__ = ["Pins"]


class Pins:
    """A prefix is promised its pages when it is asked for and keeps them once it is computed.

    The oldest request must always get on (see scheduler), so neither a request nor a pin is taken that could leave one
    without the pages it may need at its longest. What a request shares with pinned prefixes it does not need again.
    """

    def __init__(self, cache: KVCache, max_position_embeddings: int) -> None:
        self._cache = cache
        self._context = max_position_embeddings
        self._promised: dict[int, Prompt] = {}
        self._kept: dict[int, Pin] = {}

    def most_tokens(self, prompt: Prompt, num_more: int) -> int:
        """How long a sequence of this prompt can become; CapacityError where that is not num_more tokens more."""
        room = self.room(prompt) * self._cache.page_size
        most, num_tokens = min(self._context, room), len(prompt.token_ids)
        if num_tokens + num_more > most:
            num_taken = self._cache.num_pages * self._cache.page_size - room
            pinned = f", beside {num_taken} of pinned prefixes" if num_taken else ""
            raise CapacityError(
                f"the prompt has {num_tokens} tokens; at most {most - num_more} fit (the context is {self._context}, "
                f"the pages hold {room}{pinned}): shorten it" + (", or raise kv_bytes" if room < self._context else "")
            )
        return most

    def room(self, prompt: Prompt) -> int:
        """Pages that a sequence of this prompt can have at most, beside all pins."""
        return self._cache.room(*prompt) - sum(self._num_new_pages(other) for other in self._promised.values())

    def promise(self, id: int, prompt: Prompt, requests: Iterable[Sequence]) -> None:
        """Set pages aside for a prefix. Raises CapacityError where too few would be left, for `requests` or for any."""
        num_new = self._num_new_pages(prompt)
        num_full = len(prompt.token_ids) // self._cache.page_size
        missing = num_full + 1 - self.room(prompt)
        for seq in requests:
            num_needed = -(-len(seq.token_ids) // self._cache.page_size)
            missing = max(missing, num_needed + num_new - self.room(seq.prompt))
        if missing > 0:
            raise CapacityError(
                f"to pin these {len(prompt.token_ids)} tokens takes {num_new} more pages, {missing} more than can be: "
                f"of {self._cache.num_pages} pages {self._cache.num_pinned} are pinned, and the requests under way "
                "need room, one page at least: unpin another, wait for the requests, or raise kv_bytes"
            )
        self._promised[id] = prompt

    def keep(self, id: int, lease: Lease) -> None:
        """The prefix is computed: from now on its pages stay."""
        del self._promised[id]
        self._kept[id] = self._cache.pin(lease)

    def give_up(self, id: int) -> None:
        del self._promised[id]

    def unpin(self, id: int) -> bool:
        """Whether a prefix was kept under this id; it is no more."""
        pin = self._kept.pop(id, None)
        if pin is not None:
            self._cache.unpin(pin)
        return pin is not None

    def _num_new_pages(self, prompt: Prompt) -> int:
        """Pages that would be pinned for it beside those that are."""
        num_pinned_of_it = self._cache.room(*prompt) - (self._cache.num_pages - self._cache.num_pinned)
        return len(prompt.token_ids) // self._cache.page_size - num_pinned_of_it
