"""The cache's promises one by one; tests/laws/test_pages.py has them all at once."""

import pytest

from farthing.cache import KVCache, Lease, UnderWay

PAGE = 4


def held(cache: KVCache, tokens, salt="") -> Lease:
    """A lease with all tokens computed."""
    lease = cache.match(tokens, salt)
    assert isinstance(lease, Lease)
    assert cache.grow(lease, len(tokens) - lease.num_tokens)
    cache.commit(lease, tokens)
    return lease


def num_found(cache: KVCache, tokens, salt="") -> int:
    lease = cache.match(tokens, salt)
    assert isinstance(lease, Lease)
    num_shared = lease.num_shared
    cache.release(lease)
    return num_shared


def test_the_last_token_is_never_cached():
    cache = KVCache(8, PAGE)
    cache.release(held(cache, range(8)))
    assert num_found(cache, range(8)) == 1
    assert num_found(cache, range(9)) == 2
    assert num_found(cache, range(4)) == 0
    cache.check()


def test_a_salt_separates_and_the_same_salt_shares():
    cache = KVCache(8, PAGE)
    cache.release(held(cache, range(8), "a"))
    assert num_found(cache, range(9), "a") == 2
    assert num_found(cache, range(9), "b") == 0
    assert num_found(cache, range(9)) == 0
    cache.check()


def test_a_prefix_counts_from_the_beginning():
    cache = KVCache(8, PAGE)
    cache.release(held(cache, range(8)))
    assert num_found(cache, [9, *range(1, 9)]) == 0
    assert num_found(cache, [0, 1, 2, 3, 9, 5, 6, 7, 8]) == 1


def test_pages_are_shared_not_copied():
    cache = KVCache(8, PAGE)
    first, second = held(cache, range(9)), held(cache, range(9))
    assert first.page_table[:2].tolist() == second.page_table[:2].tolist()
    assert first.page_table[2] != second.page_table[2]
    assert cache.num_leased == 4
    cache.check()


def test_the_same_page_computed_twice_is_kept_once():
    cache = KVCache(8, PAGE)
    first, second = cache.match(range(8)), cache.match(range(8))  # both began before either was done
    for lease in (first, second):
        assert cache.grow(lease, 8)
    assert cache.num_leased == 4
    cache.commit(first, range(8))
    cache.commit(second, range(8))
    assert first.page_table[:2].tolist() == second.page_table[:2].tolist()
    assert cache.num_leased == 2
    cache.check()


def test_grow_refuses_before_it_evicts():
    cache = KVCache(4, PAGE)
    cache.release(held(cache, range(8)))
    lease = cache.match([7])
    assert not cache.grow(lease, 5 * PAGE)
    assert num_found(cache, range(9)) == 2
    assert cache.grow(lease, 4 * PAGE)
    assert num_found(cache, range(9)) == 0
    cache.check()


def test_eviction_takes_leaves_of_the_least_recently_used():
    cache = KVCache(6, PAGE, eviction="lru")
    common = [0] * PAGE
    old, new = [*common, *[1] * PAGE, 9], [*common, *[2] * PAGE, 9]
    cache.release(held(cache, old[:-1]))
    cache.release(held(cache, new[:-1]))
    assert num_found(cache, old) == 2  # used again: the other is now the older
    lease = cache.match([5])
    assert cache.grow(lease, 4 * PAGE)  # 3 are free, 1 has to go
    assert num_found(cache, old) == 2
    assert num_found(cache, new) == 1
    cache.check()


def test_a_pinned_prefix_is_not_evicted():
    cache = KVCache(4, PAGE)
    lease = held(cache, range(9))
    other = cache.match([7])
    assert not cache.grow(other, 2 * PAGE)
    assert cache.grow(other, PAGE)
    cache.release(lease)
    assert cache.grow(other, 2 * PAGE)
    cache.check()


def test_what_is_under_way_is_waited_for():
    cache = KVCache(16, PAGE)
    owner = cache.match(range(13))
    assert cache.grow(owner, 13)
    cache.announce(owner, range(13))
    wait = cache.match(range(20))
    assert isinstance(wait, UnderWay)
    assert not isinstance(cache.match(range(20), "other salt"), UnderWay)
    assert not isinstance(cache.match(range(4)), UnderWay)  # its only page holds its last token
    assert not isinstance(cache.match([5, *range(20)]), UnderWay)
    cache.commit(owner, range(8))
    assert not wait.is_over  # one more shared page to come
    cache.commit(owner, range(13))
    assert wait.is_over
    assert num_found(cache, range(20)) == 3
    cache.check()


@pytest.mark.parametrize("num_computed", [0, 5, 8])
def test_waiting_ends_when_the_owner_gives_up(num_computed):
    cache = KVCache(16, PAGE)
    owner = cache.match(range(13))
    assert cache.grow(owner, 13)
    cache.announce(owner, range(13))
    wait = cache.match(range(20))
    assert isinstance(wait, UnderWay)
    cache.commit(owner, range(num_computed))
    cache.release(owner)
    assert wait.is_over
    assert num_found(cache, range(20)) == num_computed // PAGE
    cache.check()


def test_waiting_ends_when_another_was_quicker():
    cache = KVCache(16, PAGE)
    quick = cache.match(range(4))  # its only page holds its last token, so it waits for nobody
    owner = cache.match(range(13))
    cache.announce(owner, range(13))
    wait = cache.match(range(20))
    assert isinstance(wait, UnderWay)
    assert cache.grow(quick, 4)
    cache.commit(quick, range(4))
    assert wait.is_over  # the owner's chain of announcements is broken: better to compute than to depend on it
    cache.release(quick)
    cache.check()
    assert cache.grow(owner, 13)
    cache.commit(owner, range(13))
    assert num_found(cache, range(20)) == 3
    cache.release(owner)
    cache.check()


def test_waiting_ends_when_the_owner_goes_another_way():
    cache = KVCache(16, PAGE)
    owner = cache.match(range(13))
    cache.announce(owner, range(13))
    wait = cache.match(range(20))
    assert isinstance(wait, UnderWay)
    assert cache.grow(owner, 13)
    cache.commit(owner, [9] * 8)
    assert wait.is_over
    cache.check()


def test_truncate_keeps_shared_pages_whole():
    cache = KVCache(8, PAGE)
    lease = held(cache, range(10))
    assert cache.truncate(lease, 9) == 9  # within the lease's own page
    assert cache.truncate(lease, 6) == 4  # within a page that others may read
    assert (lease.num_pages, lease.num_shared) == (1, 1)
    assert num_found(cache, range(10)) == 2  # given back, not forgotten
    assert cache.grow(lease, 2)
    cache.check()


def test_without_prefix_caching_nothing_is_found_and_nobody_waits():
    cache = KVCache(8, PAGE, is_prefix_cached=False)
    lease = cache.match(range(9))
    cache.announce(lease, range(9))
    assert cache.grow(lease, 9)
    cache.commit(lease, range(9))
    assert isinstance(cache.match(range(9)), Lease)
    assert num_found(cache, range(9)) == 0
    cache.release(lease)
    assert cache.num_leased == 0
    cache.check()


def test_check_notices_a_lost_page():
    cache = KVCache(4, PAGE)
    lease = held(cache, range(6))
    lease.num_pages -= 1
    with pytest.raises(AssertionError):
        cache.check()


def test_what_was_cut_off_is_not_public_any_more():
    cache = KVCache(8, PAGE)
    lease = cache.match(range(13), "a", 12)
    assert isinstance(lease, Lease)
    assert cache.grow(lease, 13)
    cache.commit(lease, range(13))
    assert cache.truncate(lease, 6) == 4
    own = [0, 1, 2, 3, *[9] * 9]  # no longer what was declared: only the first page is known to be everyone's
    assert cache.grow(lease, 9)
    cache.commit(lease, own)
    cache.release(lease)
    assert [num_found(cache, own, salt) for salt in ("a", "b")] == [0, 0]
    other = cache.match(own, "b", 12)
    assert isinstance(other, Lease)
    assert other.num_shared == 1
    cache.release(other)
    cache.check()


def test_pinned_pages_stay_until_they_are_unpinned_by_all():
    cache = KVCache(4, PAGE)
    lease = held(cache, range(9))
    pins = [cache.pin(lease), cache.pin(lease)]
    cache.release(lease)
    cache.check_idle()
    assert (cache.num_pinned, cache.num_leased, cache.num_available) == (2, 0, 2)
    assert (cache.room(range(9)), cache.room(range(8)), cache.room([7])) == (4, 3, 2)
    cache.unpin(pins[0])
    other = cache.match([7])
    assert not cache.grow(other, 3 * PAGE)
    cache.unpin(pins[1])
    cache.check()
    assert cache.grow(other, 3 * PAGE)
    with pytest.raises(KeyError):
        cache.unpin(pins[1])
