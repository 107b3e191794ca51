"""The spool's file: torn, damaged, taken over."""

from pathlib import Path

import pytest

from farthing.ledger.records import Entry, Settlement
from farthing.ledger.spool import Spool
from tests.ledger.leaf import a_row


def entries(number: int) -> list[Entry]:
    return [Entry(a_row(tags=("ü", "\ud800")), Settlement("r", (("b", 5),))) for _ in range(number)]


def test_what_was_put_is_taken_in_order(tmp_path: Path) -> None:
    spool, given = Spool(tmp_path / "a.jsonl"), entries(5)
    spool.put(given[:2])
    spool.put(given[2:])
    taken, end = spool.take(3)
    assert taken == given[:3]
    assert spool.take(3)[0] == given[:3]  # not dropped: again
    spool.drop(3, end)
    assert spool.take(9)[0] == given[3:]
    assert spool.num_waiting == 2


def test_an_emptied_spool_is_an_empty_file_and_then_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    spool.put(entries(2))
    spool.drop(2, spool.take(2)[1])
    assert spool.path.stat().st_size == 0
    spool.put(given := entries(1))
    assert spool.take(5)[0] == given
    spool.drop(1, spool.take(1)[1])
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_bytes", [1, 10, 200])
def test_a_torn_last_line_was_never_acknowledged(tmp_path: Path, num_bytes: int) -> None:
    spool, given = Spool(tmp_path / "a.jsonl"), entries(3)
    spool.put(given)
    spool.close()
    data = spool.path.read_bytes()
    spool.path.write_bytes(data[:-num_bytes])
    (again,) = Spool.orphans(tmp_path)
    assert again.take(9)[0] == given[:2]


def test_a_damaged_line_is_left_out_and_said(tmp_path: Path) -> None:
    spool, given = Spool(tmp_path / "a.jsonl"), entries(3)
    spool.put(given)
    spool.close()
    data = bytearray(spool.path.read_bytes())
    data[len(data) // 2] ^= 1
    spool.path.write_bytes(data)
    with pytest.warns(UserWarning, match="a damaged line"):
        (again,) = Spool.orphans(tmp_path)
    with pytest.warns(UserWarning, match="a damaged line"):
        taken, _ = again.take(9)
    assert taken == [given[0], given[2]]


def test_nobody_takes_the_file_of_the_living(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    spool.put(entries(1))
    assert list(Spool.orphans(tmp_path)) == []
    spool.close()
    assert len(list(Spool.orphans(tmp_path))) == 1
    assert list(Spool.orphans(tmp_path / "none")) == []


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, given = Spool(tmp_path / "a.jsonl"), entries(1)
    spool.put(given)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            spool.put(entries(4))
    assert spool.take(9)[0] == given
    assert spool.num_waiting == 1
