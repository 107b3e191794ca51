"""llama.cpp's server for benchmarks/reuse.py: started for one run, asked over HTTP on loopback, a thread per user."""

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.conversations import Play, Run, Turn, question
from benchmarks.peers.llamacpp import Setting

__all__ = ["Answer", "Server", "context_size", "options", "parse_stream", "play_server"]

START_S = 120.0
ANSWER_S = 900.0
Clock = Callable[[], float]
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer as the server tells it; `engine_s` is from the beginning of the prompt's computation to the last
    token, without HTTP and without waiting for a step that was under way."""

    text: str
    input_tokens: int
    cache_read_tokens: int
    output_tokens: int
    engine_s: float
    first_at: float | None  # the clock when the first text came


def parse_stream(lines: Iterable[bytes], clock: Clock) -> Answer:
    """A streamed chat completion: server-sent events, the last with the timings. ValueError where they are missing."""
    pieces: list[str] = []
    first_at: float | None = None
    timings: Json | None = None
    for line in lines:
        if not line.startswith(b"data: {"):
            continue
        piece = json.loads(line[len(b"data: ") :])
        for choice in piece.get("choices", ()):
            if text := choice["delta"].get("content"):
                first_at = first_at if first_at is not None else clock()
                pieces.append(text)
        timings = piece.get("timings", timings)
    if timings is None:
        raise ValueError(f"llama-server ended an answer without timings, after {''.join(pieces)!r}")
    cached = timings["cache_n"]
    seconds = (timings["prompt_ms"] + timings["predicted_ms"]) / 1000
    return Answer("".join(pieces), cached + timings["prompt_n"], cached, timings["predicted_n"], seconds, first_at)


def context_size(play: Play) -> int:
    """Tokens of the longest conversation, and some more: answers of another engine may be written with other tokens."""
    longest = play.system_tokens + play.num_turns * (play.answer_tokens + 64)
    return -(-longest // 256) * 256 + 256


def options(setting: Setting, play: Play) -> list[str]:
    """A slot for each user, so that each finds the own conversation again; without one pool the context is divided."""
    pool = ["--kv-unified"] if setting.is_unified else ["--no-kv-unified"]
    slots = ["--parallel", str(play.num_users), "--ctx-size", str(play.num_users * context_size(play))]
    return [*slots, *pool, *setting.options, "--cache-prompt", "--no-webui"]


class Server:
    """A context manager. Raises OSError where the server ends or says nothing before it is ready."""

    def __init__(self, program: Path, model: Path, threads: int, options: Sequence[str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--model", model]
        self._command = [program, *place, "--threads", str(threads), *options]
        self._log = log

    def __enter__(self) -> "Server":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise OSError(f"llama-server did not start; see logs/{self._log.name}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)

    def _is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            connection = self.connect()
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False


def play_server(server: Server, system: str, play: Play, clock: Clock = time.perf_counter) -> Run:
    """The whole work, by a thread for each user. Raises OSError or ValueError where an answer failed."""
    turns: list[Turn] = []
    failed: list[Exception] = []
    barrier = threading.Barrier(play.num_users + 1)

    def user(number: int) -> None:
        try:
            barrier.wait()
            turns.extend(_talk(server, number, system, play, clock))
        except Exception as error:
            barrier.abort()
            failed.append(error)

    threads = [threading.Thread(target=user, args=(number,), daemon=True) for number in range(play.num_users)]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):
        barrier.wait()
    started = clock()
    for thread in threads:
        thread.join()
    seconds = clock() - started
    if failed:
        raise failed[0]
    return Run(seconds, turns, max(_engine_s(turns, number) for number in range(play.num_users)))


def _engine_s(turns: Iterable[Turn], user: int) -> float:
    return sum(turn.engine_s or 0.0 for turn in turns if turn.user == user)


def _talk(server: Server, user: int, system: str, play: Play, clock: Clock) -> list[Turn]:
    talk = [{"role": "system", "content": system}]
    turns = []
    for number in range(play.num_turns):
        if number:
            time.sleep(play.think_s)
        sent = clock()
        talk.append({"role": "user", "content": question(user, number)})
        answer = _ask(server, talk, play, clock)
        seconds = clock() - sent
        talk.append({"role": "assistant", "content": answer.text})
        first_s = None if answer.first_at is None else answer.first_at - sent
        counts = (answer.input_tokens, answer.cache_read_tokens, answer.output_tokens)
        turns.append(Turn(user, number, *counts, first_s, seconds, answer.text, answer.engine_s))
    return turns


def _ask(server: Server, messages: list[Json], play: Play, clock: Clock) -> Answer:
    """On a connection of its own: the server closes those that it was kept waiting on, and a new one takes no time."""
    asked = {"messages": messages, "max_tokens": play.answer_tokens, "temperature": 0, "ignore_eos": True}
    asked |= {"samplers": ["top_k"], "top_k": 1}  # greedy, and no work for other samplers
    body = json.dumps({**asked, "cache_prompt": True, "stream": True})
    with closing(server.connect()) as connection:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"llama-server answered {response.status}: {response.read()[:300]!r}")
        return parse_stream(response, clock)
