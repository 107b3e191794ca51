"""A cascade as an upstream: what its stages are paid, versions that change under load, and what it refuses."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from farthing.economics.cost import HostCost
from farthing.engine.cascade_classifier import CascadeClassifier, open_cascade
from farthing.engine.classifier import ClassifierConfig
from farthing.engine.labelling import Prompt
from farthing.errors import CorruptModel, InvalidRequest
from farthing.upstreams import Call, Tally
from farthing.upstreams.classifier import ClassifierUpstream
from farthing.upstreams.classifier_answer import read_question
from farthing.upstreams.classifier_batch import answer
from farthing.upstreams.classifier_job import ClassifierJob
from tests.engine.cascades import KNOWN, LABELS, write_folder
from tests.upstreams.slots import add_version, ask, opened, promote

MODEL = "intents"
UNKNOWN = ("qqqqqqqqqqqqqq", "Ich habe sie verloren", "zzz")
TEXTS = (*KNOWN, *UNKNOWN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("cascade") / MODEL)


def call_of(text, number=0):
    return Call(f"call-{number}", "chat", {"messages": [{"role": "user", "content": text}]}, MODEL)


def test_answers_are_the_cascades_in_any_company_and_counted_by_stage(folder):
    cascade = open_cascade(folder, ClassifierConfig(num_threads=1))
    expected = cascade.label([Prompt(cascade.encode(text), text) for text in TEXTS])

    async def run():
        async with opened(folder) as upstream:
            tallies = [Tally() for _ in range(40)]
            calls = [call_of(TEXTS[i % 8], i) for i in range(40)]
            answers = await asyncio.gather(*map(ask, [upstream] * 40, calls, tallies))
            labels = [LABELS[at] for at in expected.logs.argmax(axis=1)]
            assert answers == labels * 5
            assert [await ask(upstream, call_of(text)) for text in TEXTS] == labels
            counts = upstream.serving()[MODEL].num_by_stage
            found = expected.stages.tolist()
            assert counts == {name: 6 * found.count(i) for i, name in enumerate(cascade.stages) if i in found}
            [(_, stats)] = upstream.engine_figures().values()
            spent = sum(tally.usage.compute_s for tally in tallies)
            assert 0 < spent < stats.busy_s
            for i, tally in enumerate(tallies):
                assert tally.usage.input_tokens == len(cascade.encode(TEXTS[i % 8]))
                assert upstream.max_usage(calls[i]).input_tokens == tally.usage.input_tokens
            by_ids = Call("x", "completions", {"prompt": cascade.encode(KNOWN[1])}, MODEL)
            assert await ask(upstream, by_ids) == LABELS[1]

    asyncio.run(run())


def test_seconds_of_the_calls_are_those_of_the_thread(folder):
    async def run():
        async with opened(folder, point="cheapest") as upstream:
            tallies = [Tally() for _ in TEXTS]
            await asyncio.gather(*map(ask, [upstream] * 8, map(call_of, TEXTS), tallies))
            [(_, stats)] = upstream.engine_figures().values()
            assert sum(tally.usage.compute_s for tally in tallies) == pytest.approx(stats.busy_s, abs=1e-8)
            assert upstream.serving()[MODEL].num_by_stage == {"linear": 5, "student": 3}

    asyncio.run(run())


def test_who_the_linear_model_answers_pays_for_it_alone(folder):
    cascade = open_cascade(folder, ClassifierConfig(num_threads=1), "cheapest")
    label = cascade.label

    def slow(prompts):
        """As if the student took longer than all of this batch."""
        found = label(prompts)
        return replace(found, times_ns=np.where(found.stages == 0, 7, 10**12))

    cascade.label = slow

    async def run():
        jobs = [ClassifierJob(read_question(call_of(text)), None, Tally()) for text in TEXTS]
        spent = [found.usage.compute_s for _, found in answer(cascade, jobs)]
        assert spent == pytest.approx([7e-9] * 5 + [1e3] * 3)

    asyncio.run(run())


def test_a_student_becomes_a_cascade_and_back_without_a_failed_call(tmp_path):
    slot = tmp_path / MODEL
    add_version(slot, "0001")
    write_folder(slot / "versions" / "0002", [f"0002/{i}" for i in range(5)])
    broken = write_folder(slot / "versions" / "0003")
    (broken / "linear.npz").write_bytes(b"PK no model")
    promote(slot, "0001")

    async def run():
        async with opened(slot, look_every_s=0.01) as upstream:
            seen, is_over = set(), False

            async def keep_asking(number):
                while not is_over:
                    seen.add((await ask(upstream, call_of(TEXTS[number % 8], number))).split("/")[0])

            async def until(is_true):
                async with asyncio.timeout(60):
                    while not is_true():
                        await asyncio.sleep(0.005)

            async def shows(version):
                promote(slot, version)
                await until(lambda: upstream.serving()[MODEL].version == version)
                seen.clear()
                await until(lambda: version in seen)

            clients = [asyncio.create_task(keep_asking(i)) for i in range(8)]
            await until(lambda: "0001" in seen)
            assert upstream.serving()[MODEL].num_by_stage == {}
            await shows("0002")
            assert upstream.serving()[MODEL].num_by_stage["linear"] > 0
            promote(slot, "0003")
            await until(lambda: upstream.serving()[MODEL].num_refused == 1)
            seen.clear()
            await until(lambda: len(seen) > 0)
            assert seen == {"0002"}
            await shows("0001")
            is_over = True
            await asyncio.gather(*clients)  # raises where one had failed

    asyncio.run(run())


def test_what_cannot_be_opened(folder, tmp_path):
    async def start(path, **more):
        async with opened(path, **more):
            pass

    with pytest.raises(InvalidRequest, match="leave weights out"):
        asyncio.run(start(folder, weights="q8_0"))
    broken = write_folder(tmp_path / MODEL)
    (broken / "cascade.json").write_text("{")
    with pytest.raises(CorruptModel, match="not JSON"):
        asyncio.run(start(broken))


@pytest.mark.parametrize("point", ["dearest", "", 1])
def test_a_point_is_one_of_two(point):
    with pytest.raises(InvalidRequest, match="point is"):
        ClassifierUpstream.from_config("small", {"models": ["a"], "point": point}, HostCost())


def test_the_point_is_the_tables(folder):
    async def run(point, stages):
        async with opened(folder, point=point) as upstream:
            classifier = upstream._models[MODEL].thread.classifier
            assert isinstance(classifier, CascadeClassifier)
            assert classifier.stages == stages

    asyncio.run(run("best", ("linear", "student", "teacher")))
    asyncio.run(run("cheapest", ("linear", "student")))
