"""The cold tier's promises one by one, with the fake model; tests/laws/test_cold.py has them all at once."""

import errno
import warnings
from pathlib import Path

import numpy as np
import pytest

from farthing.cache import MemoryStore
from farthing.cache.cold_file import ColdFile
from farthing.cache.slots import Record
from farthing.engine import Engine, EngineConfig
from farthing.errors import CapacityError, InvalidRequest
from tests.engine.fake import greedy, make_engine, naive

ROOM = 10 << 10
PROMPT = list(range(30))  # three whole pages of 8, and six tokens


def push_out(engine: Engine) -> None:
    lease = engine.cache.match([0])
    assert engine.cache.grow(lease, engine.cache.num_available * engine.cache.page_size)
    engine.cache.release(lease)
    engine.cache.check()


def cached(engine: Engine, *token_ids: int, salt: str = "") -> int:
    request = greedy(*token_ids, max_tokens=2, salt=salt)
    [done] = engine.generate([request])
    assert list(done.token_ids) == naive(token_ids, request.params)
    engine.cache.check()
    return done.usage.cache_read_tokens


@pytest.fixture(params=["memory", "disk"])
def engine(request, tmp_path):
    folder = None if request.param == "memory" else tmp_path
    with make_engine(cold_bytes=ROOM, cold_folder=folder, clock=lambda: 0) as engine:
        yield engine


def test_what_was_pushed_out_comes_back(engine):
    assert cached(engine, *PROMPT) == 0
    push_out(engine)
    assert cached(engine, *PROMPT) == 24
    stats = engine.cold_stats()
    assert (stats.num_kept_pages, stats.num_restored_pages) == (3, 3)
    assert engine.stats().num_cold_tokens == 24


def test_what_is_hot_is_not_asked_for(engine):
    cached(engine, *PROMPT)
    push_out(engine)
    cached(engine, *PROMPT[:16])
    assert cached(engine, *PROMPT) == 24
    assert engine.cold_stats().num_restored_pages == 2  # one, the next computed with the last token; then the third


def test_a_page_is_kept_once(engine):
    for _ in range(3):
        cached(engine, *PROMPT)
        push_out(engine)
        engine.save_pages()
    assert engine.cold_stats().num_kept_pages == 3


def test_a_salt_finds_its_own_only(engine):
    assert cached(engine, *PROMPT, salt="a") == 0
    push_out(engine)
    assert cached(engine, *PROMPT, salt="b") == 0
    assert cached(engine, *PROMPT) == 0
    push_out(engine)
    assert cached(engine, *PROMPT, salt="a") == 24


def test_followers_read_what_the_first_brought_back(engine):
    cached(engine, *PROMPT)
    push_out(engine)
    done = engine.generate([greedy(*PROMPT, i, max_tokens=2) for i in range(4)])
    assert [d.usage.cache_read_tokens for d in done] == [24] * 4
    assert engine.cold_stats().num_restored_pages == 3


def test_the_preempted_find_their_pages_again(tmp_path):
    """Two sequences that do not fit together: the younger one is put out, its pages are pushed out by the older."""
    with make_engine(cold_bytes=ROOM, cold_folder=tmp_path, num_pages=9, clock=lambda: 0) as engine:
        requests = [greedy(*range(k, k + 20), max_tokens=36, ignore_eos=True) for k in range(2)]
        done = engine.generate(requests)
        for request, one in zip(requests, done, strict=True):
            assert list(one.token_ids) == naive(request.token_ids, request.params)
        assert engine.stats().num_preemptions > 0
        assert engine.stats().num_cold_tokens > 0
        assert all(one.usage.cache_read_tokens == 0 for one in done)


def test_the_oldest_makes_room(engine):
    for k in range(30):
        cached(engine, *[(k + i) % 39 for i in range(30)])
    push_out(engine)
    stats = engine.cold_stats()
    assert stats.num_kept_pages > stats.num_pages >= 20
    assert stats.num_bytes <= ROOM
    assert cached(engine, *[(29 + i) % 39 for i in range(30)]) == 24
    assert cached(engine, *PROMPT) == 0


def test_memory_keeps_what_was_touched():
    store = MemoryStore(3 * 20, 12, 8)
    records = [Record(bytes([i]), b"", b"") for i in range(5)]
    for i in range(3):
        store.put(records[i], np.full(12, i, np.uint8))
    store.touch(records[0].digest)
    store.put(records[3], np.full(12, 3, np.uint8))
    page = np.zeros(12, np.uint8)
    assert store.get(records[0], page)
    assert page.tolist() == [0] * 12
    assert not store.get(records[1], page)
    assert not store.get(records[2]._replace(key=b"other"), page)
    assert store.num_bytes == 60


def test_close_keeps_the_newest_where_not_all_have_room(tmp_path):
    config = {"cold_bytes": 9 << 10, "cold_folder": tmp_path}
    with make_engine(**config) as engine:
        for k in range(8):
            cached(engine, *[(k + i) % 39 for i in range(30)])
    with make_engine(**config) as engine:
        assert cached(engine, *[(7 + i) % 39 for i in range(30)]) == 24
        assert cached(engine, *PROMPT) == 0


def test_close_aborts_and_nothing_can_be_submitted_then(tmp_path):
    engine = make_engine(cold_bytes=ROOM, cold_folder=tmp_path)
    engine.submit(greedy(*PROMPT, max_tokens=9))
    engine.step()
    engine.close()
    engine.close()
    assert not engine.has_work
    assert engine.cache.num_leased == 0
    with pytest.raises(InvalidRequest, match="closed"):
        engine.submit(greedy(1))
    with make_engine(cold_bytes=ROOM, cold_folder=tmp_path) as engine:
        assert cached(engine, *PROMPT) == 24


@pytest.mark.parametrize("failing", ["write", "read", "create"])
def test_a_disk_that_fails_switches_the_tier_off(failing, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with make_engine(cold_bytes=ROOM, cold_folder=tmp_path, clock=lambda: 0) as engine:
        if failing == "read":
            cached(engine, *PROMPT)
            push_out(engine)
        monkeypatch.setattr(ColdFile, failing, fail)
        if failing != "read":
            cached(engine, *PROMPT)
        with pytest.warns(RuntimeWarning, match="No space left on device"):
            cached(engine, *PROMPT) if failing == "read" else push_out(engine)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            push_out(engine)
            assert cached(engine, *PROMPT) == 0
        assert engine.cold_stats().num_errors == 1
        assert engine.cold_stats().num_pages == 0
    monkeypatch.undo()
    make_engine(cold_bytes=ROOM, cold_folder=tmp_path).close()


def test_a_full_disk_for_real():
    """/dev/full gives the error, as a disk does: in the middle of a write."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "r+b", buffering=0) as full, pytest.raises(OSError, match="No space"):
        ColdFile._write(type("Full", (), {"_fd": full.fileno()})(), b"x" * 10, 0)


def test_slow_pages_are_computed_instead_and_tried_again_later(tmp_path):
    """A medium that takes longer than computing: after it was measured once, it is asked only now and then."""
    now = [0]

    def clock() -> int:
        now[0] += 1000
        return now[0]

    with make_engine(cold_bytes=ROOM, cold_folder=tmp_path, clock=clock) as engine:
        original = engine._cold._store.get

        def slow(*args):
            now[0] += 100_000_000
            return original(*args)

        engine._cold._store.get = slow
        cached(engine, *PROMPT)
        found = []
        for _ in range(40):
            push_out(engine)
            found.append(cached(engine, *PROMPT))
        assert found[0] == 24
        assert found[1:10] == [0] * 9
        engine._cold._store.get = original
        for _ in range(200):
            push_out(engine)
            found.append(cached(engine, *PROMPT))
        assert found[-5:] == [24] * 5


@pytest.mark.parametrize("settings", [
    {"cold_bytes": -1},
    {"cold_folder": Path("x")},
    {"cold_bytes": 1 << 20, "is_prefix_cached": False},
    {"cold_bytes": 1 << 20, "is_kv_cached": False},
])  # fmt: skip
def test_settings_that_cannot_be(settings):
    with pytest.raises(InvalidRequest, match="cold_"):
        EngineConfig(**settings)


@pytest.mark.parametrize("folder", [None, "cold"])
def test_a_budget_without_a_page_is_an_error(folder, tmp_path):
    with pytest.raises(CapacityError, match="cold_bytes is 4000; one page"):
        make_engine(cold_bytes=4000, cold_folder=folder and tmp_path / folder)
