"""The team of threads: the same bits with any number of members, awake after a pause, gone with its program."""

import time
from pathlib import Path

import numpy as np
import pytest

from farthing import kernels
from tests.laws.test_fast_equals_slow import KV, VOCAB, batch_of, linear_plan, random_weight


def plan():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(VOCAB, 64)).astype(np.float32)
    return linear_plan(table, random_weight(rng, "q4_1", VOCAB, 64), None, "int8")


def test_members_that_fell_asleep_wake_up():
    """A pause of 5 ms is many times what a member spins for before it sleeps."""
    batch = batch_of(range(20))
    expected = kernels.run(kernels.load(plan(), KV, num_threads=1), batch).copy()
    for num_threads in (2, 3, 5):
        program = kernels.load(plan(), KV, num_threads=num_threads)
        for pause_s in (0, 0, 0.005, 0, 0.005, 0.02, 0):
            time.sleep(pause_s)
            np.testing.assert_array_equal(kernels.run(program, batch), expected)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc, which is not here")
def test_a_program_takes_its_threads_with_it():
    def num_threads():
        return len(list(Path("/proc/self/task").iterdir()))

    before = num_threads()
    program = kernels.load(plan(), KV, num_threads=4)
    assert num_threads() == before + 3  # the caller is a member
    for _ in range(30):
        program = kernels.load(plan(), KV, num_threads=4)
        kernels.run(program, batch_of([1]))
    del program
    assert num_threads() == before
