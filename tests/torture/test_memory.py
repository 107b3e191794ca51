"""What counts as flat: noise and one jump do, a kilobyte for each request does not."""

import random

from tests.torture.memory import LEAST_LEAK_BYTES, growth_bytes, is_flat

BASE, NUM_SAMPLES, NUM_REQUESTS = 100 << 20, 600, 60_000


def noise(number: int) -> int:
    return random.Random(number).randrange(1 << 20)


def test_noise_a_warm_up_and_one_jump_are_flat() -> None:
    flat = [BASE + noise(number) for number in range(NUM_SAMPLES)]
    warm_up = [min(1.0, number / 100) * (20 << 20) for number in range(NUM_SAMPLES)]
    jump = [(6 << 20) * (number > 400) for number in range(NUM_SAMPLES)]
    for more in ([0] * NUM_SAMPLES, warm_up, jump):
        assert is_flat([one + int(extra) for one, extra in zip(flat, more, strict=True)], NUM_REQUESTS)


def test_a_kilobyte_for_each_request_is_not() -> None:
    leak = NUM_REQUESTS * LEAST_LEAK_BYTES / NUM_SAMPLES
    leaking = [BASE + noise(number) + int(number * leak) for number in range(NUM_SAMPLES)]
    assert not is_flat(leaking, NUM_REQUESTS)
    assert abs(growth_bytes(leaking) / (0.75 * NUM_REQUESTS * LEAST_LEAK_BYTES) - 1) < 0.05
