"""Results come in order, few wait at a time, and an error ends the work."""

import time

import pytest

from farthing.kernels.cores import num_cores
from farthing.tuning.threads import in_order


@pytest.mark.parametrize("workers", [1, 3])
def test_in_order(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.tuning.threads.num_cores", lambda: workers)
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    taken = 0
    for result in in_order(work, range(20)):
        assert result == taken * taken
        assert len(begun) <= taken + workers + 1
        taken += 1
    assert taken == 20


def test_an_error_is_raised_in_its_place() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    found = in_order(work, range(100))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)
    assert num_cores() >= 1
