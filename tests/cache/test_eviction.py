"""What goes first. That `lru` is LRU, tests/report/test_replay.py shows; here is what `odds` promises besides."""

from typing import get_args

import pytest

from farthing.cache import Eviction, KVCache

PAGE = 4


def use(cache: KVCache, name: int, num_pages: int = 3) -> int:
    """One sequence of `num_pages` pages and a token, all its own; how many pages it found."""
    tokens = [name] * (num_pages * PAGE + 1)
    lease = cache.match(tokens)
    num_found = lease.num_shared
    assert cache.grow(lease, len(tokens) - lease.num_tokens)
    cache.commit(lease, tokens)
    cache.release(lease)
    return num_found


def share_found(eviction: Eviction, names, num_pages: int) -> float:
    cache = KVCache(num_pages, PAGE, eviction=eviction)
    found = [use(cache, name) for name in names]
    cache.check()
    return sum(found) / (3 * len(found))


def test_without_experience_odds_are_lru():
    cache = KVCache(10, PAGE, eviction="odds")
    for name in range(3):
        use(cache, name)
    use(cache, 3)
    assert [use(cache, name) for name in (3, 2)] == [3, 3]
    assert use(cache, 0) == 0


def test_what_comes_once_does_not_push_out_what_comes_again():
    names = [name for i in range(400) for name in (i % 8, 1000 + 3 * i, 1001 + 3 * i, 1002 + 3 * i)]
    assert share_found("lru", names, 60) == 0  # 32 sequences lie between two uses of one, room is for 20
    assert share_found("odds", names, 60) > 0.15  # of 0.25 at most


@pytest.mark.parametrize("eviction", get_args(Eviction))
def test_what_was_dear_once_does_not_stay_for_ever(eviction):
    """Conversations that everybody used, then others that fit just as well: they are found soon."""
    cache = KVCache(61, PAGE, eviction=eviction)
    for _ in range(200):
        for name in range(20):
            use(cache, name)
    for _ in range(20):
        found = [use(cache, 100 + name) for name in range(20)]
    assert found == [3] * 20
    cache.check()


def test_a_second_use_after_eviction_is_a_second_use():
    """Turns so far apart that plain LRU finds none: what has come again is kept, what has not makes room."""
    turns = [name for i in range(300) for name in (i, i - 15, i - 30, i - 45, i - 60)]
    lru, odds = (share_found(eviction, turns, 90) for eviction in ("lru", "odds"))
    assert lru == 0
    assert odds > 0.03


def test_who_waits_for_room_uses_nothing():
    """Matched in every step until there is room, it would look like what everybody wants."""
    cache = KVCache(20, PAGE, eviction="odds")
    use(cache, 1)
    before = [list(counts) for counts in (cache._tree._policy._num_used, cache._tree._policy._num_used_again)]
    for _ in range(50):
        cache.release(cache.match([1] * 13))
    assert [cache._tree._policy._num_used, cache._tree._policy._num_used_again] == before


def test_what_is_remembered_of_evicted_pages_is_bounded():
    cache = KVCache(9, PAGE, eviction="odds")
    for name in range(1000):
        use(cache, name)
    assert len(cache._tree._policy._evicted) == 8 * 9
    cache.check()
