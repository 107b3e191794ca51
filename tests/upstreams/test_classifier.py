"""A classifier as an upstream: batches, budgets, calls given up, and versions that change under load."""

import asyncio
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.engine.classifier import Classifier
from farthing.errors import InvalidRequest, ModelNotFound
from farthing.upstreams import Call, Tally, UpstreamError, classifier_thread
from farthing.upstreams.classifier import ClassifierUpstream
from farthing.upstreams.classifier_config import ClassifierTable
from tests.upstreams.slots import GOLDEN, NUM_LABELS, add_version, ask, opened, promote

MODEL = "classifier_llama"
TEXTS = ("a", "When will my card arrive?", "lost", "Ich habe meine Karte verloren")


def call_of(text="a", model=MODEL, number=0, **more):
    body = {"messages": [{"role": "user", "content": text}], **more.pop("body", {})}
    return Call(f"call-{number}", "chat", body, model, **more)


def test_usage_sums_to_the_busy_time_and_company_changes_nothing():
    async def run():
        async with opened(GOLDEN / MODEL) as upstream:
            tallies = [Tally() for _ in range(40)]
            calls = [call_of(TEXTS[i % 4], number=i) for i in range(40)]
            answers = await asyncio.gather(*map(ask, [upstream] * 40, calls, tallies))
            assert answers == [await ask(upstream, call_of(TEXTS[i % 4])) for i in range(40)]
            [(load, stats)] = upstream.engine_figures().values()
            assert stats.num_output_tokens == 80
            assert stats.num_steps < 80
            assert (load.num_running, load.num_waiting) == (0, 0)
            assert load.used_share is None
            return tallies, upstream

    tallies, upstream = asyncio.run(run())
    for i, tally in enumerate(tallies):
        assert tally.usage.output_tokens == 1
        assert tally.usage.compute_s > 0
        assert (tally.provider, tally.is_local, tally.usage_source) == ("local", True, "engine")
        assert tally.usage.input_tokens == upstream.max_usage(call_of(TEXTS[i % 4])).input_tokens


def test_seconds_of_the_calls_are_those_of_the_thread():
    async def run():
        async with opened(GOLDEN / MODEL) as upstream:
            tallies = [Tally() for _ in range(20)]
            await asyncio.gather(*[ask(upstream, call_of(number=i), tally) for i, tally in enumerate(tallies)])
            [(_, stats)] = upstream.engine_figures().values()
            assert sum(tally.usage.compute_s for tally in tallies) == pytest.approx(stats.busy_s, abs=1e-8)

    asyncio.run(run())


def test_one_bad_call_does_not_hold_up_the_others():
    async def run():
        async with opened(GOLDEN / MODEL) as upstream:
            calls = [call_of("x" * 5000, number=1), call_of("a", number=2), call_of("", number=3)]
            tallies = [Tally() for _ in calls]
            found = await asyncio.gather(*map(ask, [upstream] * 3, calls, tallies), return_exceptions=True)
            assert found[0].code == "context_length_exceeded"
            assert found[1].startswith(("card", "lost", "über", "🙂", "exch"))
            assert found[2]  # the end token alone is a text
            assert tallies[0].usage == Usage()
            with pytest.raises(UpstreamError, match="at least"):  # told from its length
                await ask(upstream, call_of("x" * 1_000_000))
            with pytest.raises(UpstreamError, match="at least"):
                upstream.max_usage(call_of("x" * 1_000_000))
            with pytest.raises(UpstreamError, match="is not here; there are: classifier_llama"):
                await ask(upstream, call_of(model="none"))
            ids = Call("x", "completions", {"prompt": [7, 299]}, MODEL)
            assert await ask(upstream, ids)
            with pytest.raises(UpstreamError, match="0 to 299"):
                await ask(upstream, Call("x", "completions", {"prompt": [7, 300]}, MODEL))

    asyncio.run(run())


class Purse:
    """An allowance of so many seconds."""

    def __init__(self, is_covered=True):
        self.is_covered, self.charged = is_covered, []

    def charge(self, usage):
        self.charged.append(usage)

    def covers(self):
        return self.is_covered


def test_budgets():
    async def run():
        async with opened(GOLDEN / MODEL) as upstream:
            purse, tally = Purse(), Tally()
            await ask(upstream, call_of(allowance=purse), tally)
            assert purse.charged == [tally.usage]
            with pytest.raises(UpstreamError) as caught:
                await ask(upstream, call_of(allowance=Purse(is_covered=False)))
            assert caught.value.status == 429
            with pytest.raises(UpstreamError) as caught:
                await ask(upstream, call_of(body={"n": 3}, max_output_tokens=2))
            assert caught.value.code == "insufficient_quota"
            assert upstream.max_usage(call_of(body={"n": 3})).output_tokens == 3
            with pytest.raises(UpstreamError, match="tokens"):
                upstream.max_usage(call_of("x" * 5000))

    asyncio.run(run())


@pytest.fixture
def held(monkeypatch):
    """Classifying waits until this is set."""
    event = threading.Event()
    event.set()
    classify = Classifier.classify

    def waiting(self, token_ids):
        event.wait(10)
        return classify(self, token_ids)

    monkeypatch.setattr(Classifier, "classify", waiting)
    return event


def test_nothing_is_under_way_when_the_last_answer_is_told(monkeypatch):
    num_running = []

    async def run():
        async with opened(GOLDEN / MODEL) as upstream:
            send = classifier_thread._send

            def watched(found):
                if found:
                    num_running.append(upstream.engine_figures()[MODEL][0].num_running)
                send(found)

            monkeypatch.setattr(classifier_thread, "_send", watched)
            await ask(upstream, call_of())

    asyncio.run(run())
    assert num_running == [0]


async def until(is_true):
    async with asyncio.timeout(60):
        while not is_true():
            await asyncio.sleep(0.005)


def test_calls_that_were_given_up_and_too_many(held):
    async def run():
        async with opened(GOLDEN / MODEL, max_waiting=2) as upstream:
            held.clear()
            figures = lambda: upstream.engine_figures()[MODEL][0]  # noqa: E731
            first = asyncio.create_task(ask(upstream, call_of(number=1)))
            await until(lambda: figures().num_running == 1)
            tally = Tally()
            second = asyncio.create_task(ask(upstream, call_of(number=2), tally))
            third = asyncio.create_task(ask(upstream, call_of(number=3)))
            await until(lambda: figures().num_waiting == 2)
            with pytest.raises(UpstreamError) as caught:
                await ask(upstream, call_of(number=4))
            assert caught.value.code == "overloaded"
            second.cancel()
            await asyncio.sleep(0)
            held.set()
            assert await first
            assert await third
            with pytest.raises(asyncio.CancelledError):
                await second
            assert tally.usage == Usage()

    asyncio.run(run())


def test_a_failure_is_the_batchs_alone(monkeypatch):
    async def run():
        async with opened(GOLDEN / MODEL) as upstream:
            with monkeypatch.context() as patch:
                patch.setattr(Classifier, "classify", lambda *_: 1 / 0)
                with pytest.raises(UpstreamError) as caught:
                    await ask(upstream, call_of())
            assert caught.value.status == 500
            assert await ask(upstream, call_of())

    asyncio.run(run())


def test_the_end_tells_those_who_wait(held):
    async def run():
        upstream = ClassifierUpstream("small", ClassifierTable(models=(str(GOLDEN / MODEL),), threads=1))
        await upstream.start()
        held.clear()
        tasks = [asyncio.create_task(ask(upstream, call_of(number=i))) for i in range(2)]
        await until(lambda: upstream.engine_figures()[MODEL][0].num_running > 0)
        closing = asyncio.create_task(upstream.aclose())
        await asyncio.sleep(0.05)
        held.set()
        await closing
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {getattr(one, "code", "answered") for one in found} <= {"answered", "shutting_down"}
        with pytest.raises(UpstreamError, match="shutting down"):
            await ask(upstream, call_of())

    asyncio.run(run())


@pytest.fixture
def slot(tmp_path):
    slot = tmp_path / "intents"
    add_version(slot, "0001")
    add_version(slot, "0002", "qwen2")
    promote(slot, "0001")
    return slot


def test_versions_change_under_load_without_a_failed_call(slot):
    async def run():
        async with opened(slot, look_every_s=0.01) as upstream:
            seen, is_over = set(), False

            async def keep_asking(number):
                while not is_over:
                    answer = await ask(upstream, call_of(TEXTS[number % 4], "intents", number))
                    seen.add(answer.split("/")[0])

            async def shows(version):
                promote(slot, version)
                await until(lambda: upstream.serving()["intents"].version == version)
                seen.clear()
                await until(lambda: version in seen)

            clients = [asyncio.create_task(keep_asking(i)) for i in range(12)]
            await until(lambda: "0001" in seen)
            for version in ("0002", "0001", "0002"):
                await shows(version)
            assert upstream.serving()["intents"].num_swaps == 3
            add_version(slot, "0003")
            (slot / "versions" / "0003" / "model.safetensors").write_bytes(b"no model")
            promote(slot, "0003")
            await until(lambda: upstream.serving()["intents"].num_refused == 1)
            (slot / "current").unlink()
            await until(lambda: upstream.serving()["intents"].num_refused == 2)
            seen.clear()
            await until(lambda: len(seen) > 0)
            assert seen == {"0002"}
            await shows("0001")  # back
            is_over = True
            await asyncio.gather(*clients)  # raises where one had failed

    asyncio.run(run())


def test_a_version_whose_logits_are_no_numbers_is_refused(slot, caplog):
    folder = add_version(slot, "0003")
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-64:] = np.full(32, 0x7FC0, np.uint16).tobytes()  # of the last tensor: NaN in bfloat16
    (folder / "model.safetensors").write_bytes(raw)

    async def run():
        async with opened(slot, look_every_s=0.01) as upstream:
            promote(slot, "0003")
            await until(lambda: upstream.serving()["intents"].num_refused == 1)
            assert (await ask(upstream, call_of(model="intents"))).startswith("0001/")

    asyncio.run(run())
    assert "0003" in caplog.text


def test_an_empty_slot_waits_for_its_first_version(tmp_path):
    slot = tmp_path / "intents"
    (slot / "versions").mkdir(parents=True)

    async def run():
        async with opened(slot, look_every_s=0.01) as upstream:
            assert await upstream.models() == ["intents"]
            for ask_it in (lambda: ask(upstream, call_of(model="intents")), None):
                with pytest.raises(UpstreamError) as caught:
                    upstream.max_usage(call_of(model="intents")) if ask_it is None else await ask_it()
                assert (caught.value.status, caught.value.code) == (503, "no_version")
                assert (caught.value.is_retryable, caught.value.is_failure) == (True, False)
                assert caught.value.is_retryable
            assert upstream.serving()["intents"].version == ""
            add_version(slot, "0001")
            (slot / "current").write_text("versions/0001\n")
            await until(lambda: upstream.serving()["intents"].version == "0001")
            assert (await ask(upstream, call_of(model="intents"))).startswith("0001/")
            assert upstream.serving()["intents"].num_refused == 0

    asyncio.run(run())


def test_a_version_that_was_mended_is_tried_again(slot):
    folder = add_version(slot, "0003")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"no model")

    async def run():
        async with opened(slot, look_every_s=0.01) as upstream:
            serving = lambda: upstream.serving()["intents"]  # noqa: E731
            promote(slot, "0003")
            await until(lambda: serving().num_refused == 1)
            promote(slot, "0001")
            (folder / "model.safetensors").write_bytes(weights)
            await asyncio.sleep(0.1)
            async with asyncio.timeout(60):
                while serving().version != "0003":
                    promote(slot, "0003")
                    await asyncio.sleep(0.2)
                    if serving().version != "0003":  # 0001 was not looked at meanwhile, on a busy machine
                        promote(slot, "0001")
                        await asyncio.sleep(0.2)
            assert serving().num_refused == 1
            assert (await ask(upstream, call_of(model="intents"))).startswith("0003/")

    asyncio.run(run())


def test_a_link_that_is_turned(slot, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(slot / "versions" / "0001")

    async def run():
        async with opened(link, look_every_s=0.01) as upstream:
            assert await upstream.models() == ["link"]
            (tmp_path / "new").symlink_to(slot / "versions" / "0002")
            (tmp_path / "new").replace(link)
            await until(lambda: upstream.serving()["link"].version == "0002")
            assert (await ask(upstream, call_of(model="link"))).startswith("0002/")

    asyncio.run(run())


def test_labels_of_another_version_may_be_asked_for_by_schema(slot):
    def schema(name):
        enum = [f"{name}/{i}" for i in range(NUM_LABELS)]
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": enum}}}}

    async def run():
        async with opened(slot) as upstream:
            assert "0001/" in await ask(upstream, call_of(model="intents", body=schema("0001")))
            with pytest.raises(UpstreamError, match="none of this model's labels"):
                await ask(upstream, call_of(model="intents", body=schema("0002")))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "models is None"),
        ({"models": []}, "models is"),
        ({"models": ["a", "a"]}, "'a' twice"),
        ({"models": ["a"], "thread": 1}, "did you mean threads"),
        ({"models": ["a"], "threads": "1"}, "threads is '1'"),
        ({"models": ["a"], "threads": 0}, "num_threads"),
        ({"models": ["a"], "product": "int4"}, "product"),
        ({"models": ["a"], "look_every_s": 0}, "look_every_s"),
        ({"models": ["a"], "max_num_seqs": 0}, "max_num_seqs"),
        ({"models": ["a"], "preload": 1}, "preload"),
    ],
)
def test_settings(table, said):
    with pytest.raises(InvalidRequest, match=said):
        ClassifierUpstream.from_config("small", table, HostCost())


def test_models_that_cannot_be_opened(tmp_path: Path):
    async def start(path, **more):
        async with opened(path, **more) as upstream:
            await ask(upstream, call_of(model=Path(path).name))

    with pytest.raises(ModelNotFound):
        asyncio.run(start(tmp_path / "none"))
    with pytest.raises(InvalidRequest, match="has no labels"):
        asyncio.run(start(GOLDEN / "llama"))
    with pytest.raises(UpstreamError) as caught:
        asyncio.run(start(GOLDEN / "llama", preload=False))
    assert caught.value.code == "model_unavailable"
    shutil.copytree(GOLDEN / MODEL, tmp_path / MODEL)
    both = (str(GOLDEN / MODEL), str(tmp_path / MODEL))
    with pytest.raises(InvalidRequest, match="two that are called"):
        ClassifierUpstream("small", ClassifierTable(models=both))
