"""The cold tier on disk, whatever is done to its files: what comes back is what was put there, or nothing."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.cache import DiskStore, Layout
from farthing.cache.slots import Record
from farthing.errors import InvalidRequest

PAGE_BYTES = 700
LAYOUT = Layout(b"f" * 32, PAGE_BYTES, 64)
OTHER = Layout(b"g" * 32, PAGE_BYTES, 64)
any_bytes = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def record(n: int) -> Record:
    return Record(n.to_bytes(32, "big"), (n + 1000).to_bytes(32, "big"), f"tokens of {n}".encode())


def page_of(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, PAGE_BYTES, np.uint8)


def opened(folder: Path, num_slots: int = 8, layout: Layout = LAYOUT, slots_per_file: int = 4) -> DiskStore:
    return DiskStore(folder, budget(num_slots, slots_per_file), layout, layout.file_bytes(slots_per_file))


def budget(num_slots: int, slots_per_file: int = 4) -> int:
    whole, rest = divmod(num_slots, slots_per_file)
    return whole * LAYOUT.file_bytes(slots_per_file) + (LAYOUT.file_bytes(rest) if rest else 0)


def found(store: DiskStore, numbers) -> set[int]:
    """Which of these come back; each that does must be right."""
    result = set()
    for n in numbers:
        page = np.zeros(PAGE_BYTES, np.uint8)
        if store.get(record(n), page):
            assert (page == page_of(n)).all(), f"a wrong page came back for {n}"
            result.add(n)
    return result


def filled(folder: Path, numbers, **options) -> None:
    store = opened(folder, **options)
    for n in numbers:
        assert store.put(record(n), page_of(n))
    store.close()


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("pages-*.cold"))


def test_pages_survive_a_restart(tmp_path):
    filled(tmp_path, range(7))
    store = opened(tmp_path)
    assert len(store) == 7
    assert found(store, range(9)) == set(range(7))
    store.close()


def test_the_page_used_longest_ago_goes_first_also_after_a_restart(tmp_path):
    store = opened(tmp_path)
    for n in range(8):
        store.put(record(n), page_of(n))
    store.touch(record(0).digest)
    store.close()
    store = opened(tmp_path)
    for n in (8, 9):
        store.put(record(n), page_of(n))
    assert found(store, range(10)) == {0, 3, 4, 5, 6, 7, 8, 9}
    store.close()


def test_the_budget_is_held_at_every_moment(tmp_path):
    for num_slots in (9, 6, 3, 1, 5):
        store = opened(tmp_path, num_slots)
        assert 0 < store.num_slots <= num_slots  # files of other sizes may leave a rest that holds no page
        assert disk_bytes(tmp_path) <= budget(num_slots)
        for n in range(30):
            if record(n).digest not in store:
                store.put(record(n), page_of(n))
            assert disk_bytes(tmp_path) <= budget(num_slots)
            assert store.num_bytes == disk_bytes(tmp_path)
        assert len(store) <= num_slots
        assert found(store, [29]) == {29}
        store.close()


def test_a_smaller_budget_keeps_what_was_used_last(tmp_path):
    filled(tmp_path, range(8))
    store = opened(tmp_path, num_slots=4)
    assert found(store, range(8)) == {4, 5, 6, 7}
    store.close()


def test_only_this_user_can_read(tmp_path):
    folder = tmp_path / "made" / "here"
    filled(folder, range(3))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_fingerprint_finds_nothing_and_takes_the_room_it_needs(tmp_path):
    filled(tmp_path, range(4))
    other = opened(tmp_path, layout=OTHER)
    assert found(other, range(4)) == set()
    other.put(record(50), page_of(50))
    other.close()
    assert len(files(tmp_path)) == 2
    store = opened(tmp_path)
    assert found(store, range(4)) == {0, 1, 2, 3}
    store.close()
    other = opened(tmp_path, layout=OTHER)
    for n in range(60, 67):
        other.put(record(n), page_of(n))
    assert disk_bytes(tmp_path) <= budget(8)
    other.close()
    store = opened(tmp_path)
    assert found(store, range(4)) == set()
    store.close()


def test_the_same_digest_with_other_tokens_or_another_parent_is_a_miss(tmp_path):
    filled(tmp_path, [1])
    store = opened(tmp_path)
    page = np.zeros(PAGE_BYTES, np.uint8)
    assert not store.get(record(1)._replace(key=b"others"), page)
    assert not store.get(record(1)._replace(parent=bytes(32)), page)
    assert found(store, [1]) == {1}
    store.close()


def test_a_key_that_has_no_room_is_not_kept(tmp_path):
    store = opened(tmp_path)
    assert not store.put(record(1)._replace(key=bytes(65)), page_of(1))
    assert store.put(record(2)._replace(key=bytes(64)), page_of(2))
    store.close()


def test_one_engine_at_a_time(tmp_path):
    store = opened(tmp_path)
    with pytest.raises(InvalidRequest, match="in use by another engine"):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidRequest, match="cannot be used"):
        opened(tmp_path / "file")


def test_whoever_is_not_closed_lets_go_all_the_same(tmp_path):
    store = opened(tmp_path)
    store.put(record(1), page_of(1))
    del store
    store = opened(tmp_path)
    assert found(store, [1]) == {1}
    store.close()


@any_bytes
@given(data=st.data())
def test_a_flipped_bit_anywhere(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cold")
    filled(folder, range(6))
    path = data.draw(st.sampled_from(files(folder)))
    raw = bytearray(path.read_bytes())
    head_end = 4096 + 4 * LAYOUT.head_bytes
    at = data.draw(st.integers(0, len(raw) - 1) | st.integers(0, 120) | st.integers(4080, head_end))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    rebuilds(folder, at_least=2)


@any_bytes
@given(data=st.data())
def test_truncated_anywhere_or_longer(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cold")
    filled(folder, range(6))
    path = data.draw(st.sampled_from(files(folder)))
    size = data.draw(st.integers(0, path.stat().st_size + 5000) | st.integers(0, 5000))
    os.truncate(path, size)
    rebuilds(folder, at_least=2)


@any_bytes
@given(data=st.data())
def test_a_stretch_overwritten_or_moved(tmp_path_factory, data):
    """Also with what stood elsewhere in the same files: whole heads and whole pages among it."""
    folder = tmp_path_factory.mktemp("cold")
    filled(folder, range(8))
    raw = [bytearray(path.read_bytes()) for path in files(folder)]
    size = len(raw[0])
    places = [4096 + i * LAYOUT.head_bytes for i in range(4)]
    places += [size - (4 - i) * PAGE_BYTES for i in range(4)]
    at = st.integers(0, size) | st.sampled_from(places)
    lengths = st.sampled_from([1, 8, 64, LAYOUT.head_bytes, PAGE_BYTES, 4096])
    for _ in range(data.draw(st.integers(1, 3))):
        source, target = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
        start, end, length = data.draw(at), data.draw(at), data.draw(lengths)
        piece = raw[source][start : start + length]
        raw[target][end : end + len(piece)] = piece
        del raw[target][size:]
    for path, content in zip(files(folder), raw, strict=True):
        path.write_bytes(content)
    rebuilds(folder, at_least=0)


def rebuilds(folder: Path, at_least: int) -> None:
    """Nothing wrong comes back, what is lost can be kept again, and the next start finds all of it."""
    store = opened(folder)
    there = found(store, range(8))
    assert len(there) >= at_least
    for n in set(range(8)) - there:
        if record(n).digest not in store:
            assert store.put(record(n), page_of(n))
    assert found(store, range(8)) == set(range(8))
    store.close()
    store = opened(folder)
    assert found(store, range(8)) == set(range(8))
    assert sum(file.num_bytes for file in store._files) <= budget(8)
    store.close()


def test_what_is_not_ours_stays(tmp_path):
    filled(tmp_path, range(4))
    target = tmp_path / "elsewhere"
    target.write_bytes(files(tmp_path)[0].read_bytes())
    (tmp_path / "pages-000007.cold").write_text("somebody's letters")
    (tmp_path / "pages-000008.cold").mkdir()
    (tmp_path / "pages-000009.cold").symlink_to(target)
    os.mkfifo(tmp_path / "pages-000010.cold")
    (tmp_path / "notes.txt").write_text("x")
    before = target.read_bytes()
    store = opened(tmp_path, num_slots=4)
    assert found(store, range(4)) == {0, 1, 2, 3}
    for n in range(10, 20):
        store.put(record(n), page_of(n))
    store.close()
    assert (tmp_path / "pages-000007.cold").read_text() == "somebody's letters"
    assert target.read_bytes() == before
    names = {path.name for path in tmp_path.iterdir()}
    assert {"pages-000008.cold", "pages-000009.cold", "pages-000010.cold", "notes.txt"} <= names


def test_a_damaged_header_is_counted_and_the_file_made_anew(tmp_path):
    filled(tmp_path, range(4))
    raw = bytearray(files(tmp_path)[0].read_bytes())
    raw[40] ^= 1
    files(tmp_path)[0].write_bytes(raw)
    store = opened(tmp_path)
    assert store.num_damaged == 1
    assert files(tmp_path) == []
    store.close()


def test_a_page_is_checked_when_it_is_read(tmp_path):
    filled(tmp_path, range(4))
    raw = bytearray(files(tmp_path)[0].read_bytes())
    raw[-1] ^= 1
    files(tmp_path)[0].write_bytes(raw)
    store = opened(tmp_path)
    assert found(store, range(4)) == {0, 1, 2}
    assert store.num_damaged == 1
    assert store.put(record(3), page_of(3))
    assert found(store, range(4)) == {0, 1, 2, 3}
    store.close()


def test_files_that_vanish_or_shrink_under_an_open_store(tmp_path):
    store = opened(tmp_path)
    for n in range(6):
        store.put(record(n), page_of(n))
    os.truncate(files(tmp_path)[0], 5000)
    files(tmp_path)[1].unlink()
    assert found(store, range(6)) == {4, 5}
    for n in range(10, 20):
        store.put(record(n), page_of(n))
    assert found(store, range(10, 20)) == set(range(12, 20))
    store.close()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.cache.test_cold_disk import opened, page_of, record
store = opened(Path({folder!r}))
n = {first}
while True:
    store.put(record(n), page_of(n))
    n += 1
    if n == {first} + 20:
        print("ready", flush=True)
"""


def test_killed_while_it_writes(tmp_path):
    """kill -9 at some moment; the lock is free, all that comes back is right, and most of it does."""
    root = str(Path(__file__).parents[2])
    for round_number in range(6):
        first = 1000 * round_number
        code = WRITER.format(root=root, folder=str(tmp_path), first=first)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.02 + 0.013 * round_number)
            os.kill(writer.pid, signal.SIGKILL)
        store = opened(tmp_path)
        assert disk_bytes(tmp_path) <= budget(8)
        there = found(store, range(first, first + 100_000)) if len(store) else set()
        assert len(there) >= len(store) - 1 >= 5
        store.close()


def test_the_lock_ends_with_its_process(tmp_path):
    code = WRITER.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path), first=0)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(InvalidRequest, match="in use"):
            opened(tmp_path)
        writer.kill()
    opened(tmp_path).close()
    with open(tmp_path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
