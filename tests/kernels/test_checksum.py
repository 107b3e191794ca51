"""checksum is XXH64: known values, and every length beside the specification written out in Python."""

import numpy as np
import pytest

from farthing import kernels

P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
M = (1 << 64) - 1


def checksum(data: bytes) -> int:
    return kernels.checksum(np.frombuffer(data, np.uint8))


def turned(x: int, bits: int) -> int:
    return (x << bits | x >> (64 - bits)) & M


def mixed(lane: int, data: bytes) -> int:
    return turned((lane + int.from_bytes(data, "little") * P2) & M, 31) * P1 & M


def xxh64(data: bytes) -> int:
    at, total = 0, P5
    if len(data) >= 32:
        lanes = [(P1 + P2) & M, P2, 0, -P1 & M]
        while len(data) - at >= 32:
            lanes = [mixed(lane, data[at + 8 * i : at + 8 * i + 8]) for i, lane in enumerate(lanes)]
            at += 32
        total = sum(turned(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & M
        for lane in lanes:
            total = ((total ^ turned(lane * P2 & M, 31) * P1 & M) * P1 + P4) & M
    total = (total + len(data)) & M
    while len(data) - at >= 8:
        total = (turned(total ^ mixed(0, data[at : at + 8]), 27) * P1 + P4) & M
        at += 8
    if len(data) - at >= 4:
        total = (turned(total ^ int.from_bytes(data[at : at + 4], "little") * P1 & M, 23) * P2 + P3) & M
        at += 4
    for byte in data[at:]:
        total = turned(total ^ byte * P5 & M, 11) * P1 & M
    total = (total ^ total >> 33) * P2 & M
    total = (total ^ total >> 29) * P3 & M
    return total ^ total >> 32


@pytest.mark.parametrize(
    ("text", "expected"), [(b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999)]
)
def test_known_values(text, expected):
    assert checksum(text) == expected


def test_every_length():
    data = np.random.default_rng(1).integers(0, 256, 200, np.uint8).tobytes()
    for n in range(len(data)):
        assert checksum(data[:n]) == xxh64(data[:n])
