"""benchmarks/reuse.py: the conversations, farthing's run of them, what the server says, what is made of it."""

import json
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from benchmarks.conversations import Play, Run, Turn, first_token_s, play_farthing, question, system_prompt
from benchmarks.llama_server import Server, context_size, options, parse_stream, play_server
from benchmarks.others import Others
from benchmarks.peers.llamacpp import Setting
from benchmarks.reuse import best_settings, farthing_players, measure
from benchmarks.reuse_table import WITH, WITHOUT, ratios, summary, table
from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.engine import EngineConfig
from farthing.models import load_model
from farthing.models.hub import models_folder
from farthing.request import Message

GOLDEN = Path(__file__).parents[1] / "golden" / "llama"
SMALL = Play(num_users=3, num_turns=2, system_tokens=96, answer_tokens=8)


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN)


@pytest.fixture(scope="module")
def runs(model) -> dict[str, list[Run]]:
    return measure(farthing_players(model, SMALL, num_threads=1), rounds=2)


@pytest.mark.parametrize("num_tokens", [64, 96, 200])
def test_the_system_prompt_has_the_tokens_that_were_asked_for(model, num_tokens: int) -> None:
    message = Message("system", system_prompt(model, num_tokens))
    assert len(model.encode_chat((message,), add_generation_prompt=False)) == num_tokens


def test_the_embedded_models_system_prompt_has_512_and_messages_about_40() -> None:
    if not any(models_folder().glob("*/SmolLM2-135M-Instruct*.gguf")):
        pytest.skip("the embedded model is not in the cache folder; farthing pull smollm2-135m-instruct")
    model, play = load_model("smollm2-135m-instruct"), Play()
    system = Message("system", system_prompt(model, play.system_tokens))
    assert len(model.encode_chat((system,), add_generation_prompt=False)) == 512
    lengths = [len(model.tokenizer.encode(question(u, t))) for u in range(16) for t in range(5)]
    assert min(lengths) >= 32
    assert max(lengths) <= 48


def test_every_question_is_another() -> None:
    assert len({question(user, turn) for user in range(16) for turn in range(5)}) == 80
    assert len({question(user, 0)[:24] for user in range(16)}) == 16


def test_with_and_without_reuse_the_answers_are_the_same_and_the_conversation_grows(runs) -> None:
    with_reuse, without = runs[WITH][0], runs[WITHOUT][0]
    assert with_reuse.answers == without.answers
    assert set(without.answers) == {(user, turn) for user in range(3) for turn in range(2)}
    assert {len(token_ids) for token_ids in without.answers.values()} == {SMALL.answer_tokens}
    assert without.total("cache_read_tokens") == 0
    turns = {(turn.user, turn.number): turn for turn in with_reuse.turns}
    assert len(turns) == len(with_reuse.turns) == 6
    for user in range(3):
        first, second = turns[user, 0], turns[user, 1]
        assert second.input_tokens > first.input_tokens + SMALL.answer_tokens
        assert first.cache_read_tokens == (0 if user == 0 else 96)  # pages of 16
        assert second.cache_read_tokens >= first.input_tokens - 16
        assert 0 < first.first_token_s < first.seconds <= with_reuse.seconds


def test_a_thinking_user_waits(model) -> None:
    play = Play(num_users=2, num_turns=2, system_tokens=64, answer_tokens=2, think_s=0.2)
    run = play_farthing(model, EngineConfig(num_threads=1), play)
    assert run.seconds > 0.2
    assert len(run.turns) == 4


def test_changed_answers_end_the_benchmark() -> None:
    turn = Turn(0, 0, 10, 0, 1, 0.1, 0.2, "a")
    players = {
        WITH: lambda: Run(1.0, [turn], 1.0, Usage(), {(0, 0): (1,)}),
        WITHOUT: lambda: Run(1.0, [turn], 1.0, Usage(), {(0, 0): (2,)}),
    }
    with pytest.raises(SystemExit, match="differ"):
        measure(players, rounds=1)


def test_the_summary_has_medians_and_dollars_and_the_table_the_ratios(runs) -> None:
    rows = [summary(name, of_name, HostCost()) for name, of_name in runs.items()]
    ours, without = rows
    assert ours["input_tokens"] == without["input_tokens"] == without["computed_tokens"]
    assert ours["computed_tokens"] + ours["cache_read_tokens"] == ours["input_tokens"]
    assert ours["output_tokens"] == 3 * 2 * SMALL.answer_tokens
    assert [sum(turn[key] for turn in ours["turns"]) for key in ("input_tokens", "cache_read_tokens")] == [
        ours["input_tokens"],
        ours["cache_read_tokens"],
    ]
    assert ours["seconds"] == pytest.approx(sum(ours["rounds_s"]) / 2, abs=1e-3)
    usd = ours["usd_per_mtok"]
    assert min(usd["input"], usd["output"]) > 0
    peer = {**without, "name": "llama.cpp: Q4_0, fa on", "seconds": 4 * ours["seconds"], "busy_s": 3 * ours["seconds"]}
    found = ratios([*rows, peer])
    assert found["llama.cpp"] == pytest.approx(4)
    assert found["llama.cpp, its own account"] == pytest.approx(3)
    assert "llama.cpp, same file" not in found
    text = table([*rows, {**peer, "usd_per_mtok": None}], found)
    assert "4.00 x llama.cpp\n" in text
    assert WITH in text


def test_first_tokens() -> None:
    turns = [Turn(0, 0, 1, 0, 1, second / 100, 1.0, "") for second in range(1, 101)]
    assert first_token_s(turns) == {"median": pytest.approx(0.505), "p95": pytest.approx(0.96)}


def test_the_best_settings_are_found_in_two_steps() -> None:
    def player(tok_s: float):
        return lambda: Run(1.0, [Turn(0, 0, 1, 0, tok_s, 0.1, 1.0, "")], 1.0)

    file = "Q4_1 as it is"
    speeds = {
        Setting("Q4_0", True): 100,
        Setting("Q4_0", False): 110,
        Setting("Q4_0", True, True): 20,
        Setting("Q4_0", False, True): 30,
        Setting(file, True): 40,
        Setting(file, False): 50,
    }
    settings, tried = best_settings({setting: player(tok_s) for setting, tok_s in speeds.items()})
    assert settings == [Setting("Q4_0", True), Setting(file, True), Setting("Q4_0", False)]
    assert len(tried) == 5  # the file as it is, without flash attention, is not tried: another file is the best


TIMINGS = {"cache_n": 5, "prompt_n": 7, "prompt_ms": 10.0, "predicted_n": 2, "predicted_ms": 20.0}
PIECES = [
    {"choices": [{"delta": {"role": "assistant", "content": None}}]},
    {"choices": [{"delta": {"content": "Good "}}]},
    {"choices": [{"delta": {"content": "day."}}]},
    {"choices": [{"delta": {}, "finish_reason": "length"}], "timings": TIMINGS},
]
STREAM = [*(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in PIECES), b"data: [DONE]\n\n"]


def test_a_stream_is_read() -> None:
    times = iter([1.5, 2.5])
    answer = parse_stream(STREAM, lambda: next(times))
    assert (answer.text, answer.first_at) == ("Good day.", 1.5)
    assert (answer.input_tokens, answer.cache_read_tokens, answer.output_tokens) == (12, 5, 2)
    assert answer.engine_s == pytest.approx(0.03)


def test_a_stream_that_breaks_off_is_an_error() -> None:
    with pytest.raises(ValueError, match="without timings, after 'Good '"):
        parse_stream(STREAM[:2], lambda: 0.0)


class FakeServer(BaseHTTPRequestHandler):
    status = 200
    asked: list[dict] = []  # noqa: RUF012 (emptied by the test that reads it)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.writelines(STREAM)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    FakeServer.asked.clear()
    FakeServer.status = 200
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        made = Server(Path("none"), Path("none"), 1, [], Path("none"))
        made.port = http.server_port
        yield made
        http.shutdown()
        thread.join()


def test_the_servers_users_talk(server) -> None:
    run = play_server(server, "Be kind.", SMALL)
    assert len(run.turns) == 6
    assert run.busy_s == pytest.approx(2 * 0.03)
    assert run.total("cache_read_tokens") == 6 * 5
    long = [body["messages"] for body in FakeServer.asked if len(body["messages"]) > 2]
    assert [[m["role"] for m in talk] for talk in long] == [["system", "user", "assistant", "user"]] * 3
    assert {talk[2]["content"] for talk in long} == {"Good day."}
    assert all(body["max_tokens"] == 8 and body["cache_prompt"] for body in FakeServer.asked)


def test_a_server_that_fails_is_an_error(server) -> None:
    FakeServer.status = 500
    with pytest.raises(ValueError, match="answered 500"):
        play_server(server, "Be kind.", SMALL)


def test_a_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    program = shutil.which("false") or sys.executable
    with (
        pytest.raises(OSError, match=r"see logs/server\.log"),
        Server(Path(program), Path("m.gguf"), 1, [], tmp_path / "server.log"),
    ):
        pass


def test_the_context_holds_the_longest_conversation() -> None:
    assert context_size(Play()) == 1536
    given = options(Setting("Q4_0", True, is_unified=True), Play())
    assert given[given.index("--ctx-size") + 1] == str(16 * 1536)
    assert "--kv-unified" in given
    assert "--no-kv-unified" in options(Setting("Q4_0", False), Play())


def test_what_others_computed_is_told_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with Others() as others:
        pass
    assert others.seconds is None or others.seconds >= 0
    monkeypatch.setattr("benchmarks.others.STAT", SimpleNamespace(read_text=lambda: "cpu"))
    with Others() as others:
        pass
    assert others.seconds is None
