"""The page ids themselves: a stack of free ones."""

__all__ = ["PagePool"]


class PagePool:
    """Hands out page ids 0 .. num_pages - 1; the one freed last is taken first: it may still be in the CPU's caches."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, n: int) -> list[int]:
        """n page ids; the caller made sure that so many are free."""
        assert 0 <= n <= len(self._free), f"{n} pages wanted, {len(self._free)} free"
        return [self._free.pop() for _ in range(n)]

    def give_back(self, pages: list[int]) -> None:
        self._free.extend(reversed(pages))

    def free_pages(self) -> tuple[int, ...]:
        return tuple(self._free)
