from dataclasses import replace
from typing import Any

import pytest

from farthing.economics.usage import Usage
from farthing.upstreams import Tally
from farthing.upstreams.echo import EchoUpstream, from_config
from tests.upstreams.provider import collect, make_call, run, said


def play(table: dict[str, Any], **body: Any) -> tuple[list[str], list[list[str]], Tally, int]:
    tally = Tally()
    chunks = run(collect(from_config("echo", table), make_call(**body), tally))
    return said(chunks)["texts"], said(chunks)["finishes"], tally, len(chunks)


def test_says_the_message_back_word_by_word() -> None:
    texts, finishes, tally, count = play({}, messages=[{"role": "user", "content": "a  bc\nd "}])
    assert (texts, finishes, count) == (["a  bc\nd "], [["stop"]], 4)
    assert (tally.usage, tally.usage_source, tally.is_local) == (Usage(4, 0, 4), "engine", True)


@pytest.mark.parametrize("wire", ["chat", "completions", "messages"])
def test_all_wires(wire: str) -> None:
    chunks = run(collect(EchoUpstream("echo"), make_call(wire), Tally()))
    assert said(chunks)["texts"] == ["Say hello"]


def test_options() -> None:
    texts, _, tally, count = play({"chunks": 3, "bytes": 1000})
    assert (len(texts[0]), count) == (1000, 3)
    texts, _, tally, count = play({"chunks": 30})
    assert (texts, count) == (["Say hello"], 2)
    texts, finishes, tally, _ = play({}, n=2, max_tokens=1)
    assert (texts, finishes) == (["Say", "Say"], [["length"]] * 2)
    assert (tally.usage.output_tokens, tally.is_cut) == (2, False)
    _, _, tally, _ = play({"provider": "openai", "priced_as": "gpt-5-nano"})
    assert (tally.provider, tally.model, tally.is_local) == ("openai", "gpt-5-nano", False)


def test_stays_within_what_it_said_it_could_use() -> None:
    call = make_call(n=2)
    echo = EchoUpstream("echo")
    assert echo.max_usage(call) == Usage(2, 0, 4)
    tally = Tally()
    run(collect(echo, replace(call, max_output_tokens=2), tally))
    assert (tally.usage.output_tokens, tally.is_cut) == (2, True)


def test_ends_where_the_allowance_does() -> None:
    class Allowance:
        num_output = 0

        def charge(self, usage: Usage) -> None:
            self.num_output = usage.output_tokens

        def covers(self) -> bool:
            return self.num_output < 2

    call = replace(make_call(messages=[{"role": "user", "content": "a b c d"}]), allowance=Allowance())
    tally = Tally()
    chunks = run(collect(EchoUpstream("echo"), call, tally))
    assert (said(chunks)["texts"], said(chunks)["finishes"], tally.is_cut) == (["a b"], [["length"]], True)
