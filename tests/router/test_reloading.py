"""A router's file that is replaced while it decides: the new one is taken whole, a broken one is not taken."""

import logging
import os
import time
from pathlib import Path

import pytest

from farthing.errors import FarthingError, ModelNotFound
from farthing.router.config import RouterConfig
from farthing.router.deciding import Decider, make_decider
from farthing.router.question import Question
from farthing.router.reloading import RETRY_S, ReloadingDecider, router_path
from farthing.router.router import RoutedMember, Router
from farthing.router.train import train
from tests.router.rows import labelled
from tests.router.test_router import Scripted

PROMPT = Question("Say what the judge and the plea have to do with 3 and 4?", 1, False)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("file") / "router.safetensors"
    train(labelled(200, seed=1)).save(path)
    return path.read_bytes()


def opened(price: float) -> "object":
    return lambda path: make_decider(RouterConfig(file=path, price=price), (True, False))


def version(slot: Path, number: int, content: bytes) -> None:
    folder = slot / "versions" / f"{number:04}"
    folder.mkdir(parents=True)
    (folder / "router.safetensors").write_bytes(content)
    beside = slot / "beside"
    beside.write_text(f"versions/{number:04}\n")
    os.replace(beside, slot / "current")


def later(decider: ReloadingDecider, clock: Clock) -> str:
    """Why, a second later, when what was opened is in its place."""
    clock.now_s += 1.1
    decider.choose(PROMPT)
    until = time.monotonic() + 10
    while decider._opening is not None and decider._opening.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    return decider.choose(PROMPT).why


def test_a_slot_begins_empty_and_is_filled(tmp_path: Path, file: bytes) -> None:
    (tmp_path / "versions").mkdir()
    clock = Clock()
    decider = ReloadingDecider(tmp_path, opened(1e9), 2, clock)  # type: ignore[arg-type]
    choice = decider.choose(PROMPT)
    assert (choice.member, choice.is_cascade) == (1, False)
    assert choice.why == "router: nothing learned yet"
    assert not decider.checks(0)
    assert not decider.wants_hidden
    assert decider.drift() is None
    version(tmp_path, 1, file)
    assert decider.choose(PROMPT).member == 1, "it looks once a second"
    assert later(decider, clock).startswith("router: gap")
    assert decider.choose(PROMPT).member == 0
    assert decider.checks(0)


def test_a_broken_version_is_told_and_the_old_one_goes_on(
    tmp_path: Path, file: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    version(tmp_path, 1, file)
    clock = Clock()
    decider = ReloadingDecider(tmp_path, opened(1e9), 2, clock)  # type: ignore[arg-type]
    before = decider.choose(PROMPT).why
    with caplog.at_level(logging.WARNING, "farthing.router"):
        version(tmp_path, 2, file[:1000])
        assert later(decider, clock) == before
        assert later(decider, clock) == before
    assert len(caplog.records) == decider.num_refused == 1, "told once"
    assert "versions/0002" in caplog.text
    (tmp_path / "current").unlink()
    assert later(decider, clock) == before


class Failing:
    """A decider's maker that fails while `error` is there."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.num_tried = 0

    def __call__(self, path: Path) -> Decider:
        self.num_tried += 1
        if self.error is not None:
            raise self.error
        return make_decider(RouterConfig(file=path, price=1e9), (True, False))


@pytest.mark.parametrize("error", [ModelNotFound("too many open files"), MemoryError("no room")])
def test_what_could_not_be_opened_is_tried_again(
    tmp_path: Path, file: bytes, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    version(tmp_path, 1, file)
    clock, failing = Clock(), Failing()
    decider = ReloadingDecider(tmp_path, failing, 2, clock)
    first = decider._decider
    failing.error = error
    with caplog.at_level(logging.WARNING, "farthing.router"):
        version(tmp_path, 2, file)
        for _ in range(3):
            later(decider, clock)
        assert failing.num_tried == 2, "not once a second"
        clock.now_s += RETRY_S
        later(decider, clock)
        assert failing.num_tried == 3
    assert len(caplog.records) == decider.num_refused == 1, "the same trouble is told once"
    assert decider._decider is first
    failing.error = None
    clock.now_s += RETRY_S
    later(decider, clock)
    assert decider._decider is not first
    clock.now_s += RETRY_S
    later(decider, clock)
    assert failing.num_tried == 4, "what is there is not opened again"


def test_a_router_counts_what_it_could_not_open(tmp_path: Path, file: bytes) -> None:
    version(tmp_path, 1, file)
    clock = Clock()
    members = [
        RoutedMember(Scripted(name), name, is_local=name == "small", price=lambda _: 1) for name in ("small", "large")
    ]
    router = Router("auto", members, RouterConfig(file=tmp_path, price=1e9), clock)
    version(tmp_path, 2, file[:1000])
    assert isinstance(router._decider, ReloadingDecider)
    later(router._decider, clock)
    assert router.router_stats().num_refused == 1


def test_a_plain_file_is_watched_too(tmp_path: Path, file: bytes) -> None:
    path = tmp_path / "router.safetensors"
    path.write_bytes(file)
    seen: list[Path] = []

    def remember(found: Path) -> Decider:
        seen.append(found)
        return make_decider(RouterConfig(file=found, price=1e9), (True, False))

    clock = Clock()
    decider = ReloadingDecider(path, remember, 2, clock)
    assert seen == [path] == [router_path(path)]
    later(decider, clock)
    assert seen == [path], "nothing has changed"
    beside = tmp_path / "beside"
    beside.write_bytes(file)
    os.replace(beside, path)
    later(decider, clock)
    assert seen == [path, path]


def test_the_first_one_must_open(tmp_path: Path, file: bytes) -> None:
    version(tmp_path, 1, file[:100])
    with pytest.raises(FarthingError):
        ReloadingDecider(tmp_path, opened(1e9), 2)  # type: ignore[arg-type]
