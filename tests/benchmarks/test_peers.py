"""benchmarks/peers: reading what programs print, choosing settings, ratios and floors, processes that take turns."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.peers.build import Missing, once, run
from benchmarks.peers.child import CHILDREN, Answer, ChildEngine, Engine
from benchmarks.peers.llamacpp import LlamaCpp, Setting, parse_batched_bench, parse_bench, settings_for
from benchmarks.peers.measure import chosen, measure
from benchmarks.peers.table import best, compare, document, table
from benchmarks.peers.works import ROWS, Bar, Row

ROW = {row.name: row for row in ROWS}
FILE, Q4 = "Q4_1 as it is, fa on", "Q4_0, fa on"
MEDIANS = {
    ("farthing", "int8"): 300.0,
    ("llama.cpp", FILE): 150.0,
    ("llama.cpp", Q4): 200.0,
    ("llama.cpp", "F16, fa on"): 250.0,
    ("OpenVINO GenAI", "PA"): 400.0,
}


def test_llama_bench_is_read() -> None:
    rows = [
        {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 1404.6},
        {"n_prompt": 0, "n_gen": 32, "n_depth": 0, "avg_ts": 205.7},
    ]
    assert parse_bench(json.dumps(rows)) == {("prefill", 512): 1404.6, ("decode", 0): 205.7}


def test_llama_batched_bench_is_read_between_other_lines() -> None:
    line = '{"n_kv_max": 12288, "pp": 512, "tg": 32, "pl": 16, "t_pp": 0.33, "speed_pp": 1548.0, "speed_tg": 495.2}'
    text = f"main: starting\n\n{line}\n\nllama_perf: {{not this}}\n"
    assert parse_batched_bench(text) == {("prefill", 512): 1548.0, ("decode", 512): 495.2}
    again = line.replace("1548.0", "1552.0")
    assert parse_batched_bench(f"{line}\n{again}")["prefill", 512] == 1550.0
    assert parse_batched_bench("nothing") == {}


def test_settings_of_llamacpp_are_measured_only_where_they_differ() -> None:
    settings = settings_for(["Q4_0"], ["Q4_0"])
    assert [str(s) for s in settings] == [
        "Q4_0, fa on",
        "Q4_0, fa off",
        "Q4_0, fa on, kvu",
        "Q4_0, fa off, kvu",
        "Q4_0, fa on, q8_0 cache",
        "Q4_0, fa off, q8_0 cache",
    ]
    engine = LlamaCpp("1", Path("none"), {}, settings, threads=2, repetitions=1)
    assert engine.rows_of("Q4_0, fa on", ROWS) == list(ROWS)
    assert {row.batch for row in engine.rows_of("Q4_0, fa on, kvu", ROWS)} == {16}
    assert [row.context for row in engine.rows_of("Q4_0, fa on, q8_0 cache", ROWS)] == [2048, 512]
    assert Setting("Q4_0", False, kv="q8_0").options == ["-fa", "off", "-ctk", "q8_0"]  # V needs flash attention


def test_a_program_that_fails_is_an_error_of_its_rows(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    program.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    program.chmod(0o755)
    engine = LlamaCpp("1", tmp_path, {"Q4_0": Path("m.gguf")}, settings_for(["Q4_0"], []), 2, 1)
    answer = engine.ask("Q4_0, fa on", [ROW["decode-1"], ROW["decode-16"]])
    assert answer.errors["decode-1"] == "ended with status 3: it is broken"
    assert "llama-batched-bench" in answer.errors["decode-16"]


def test_the_best_settings_those_close_to_it_and_the_same_file_are_chosen() -> None:
    assert chosen({"a": 100, "b": 86, "c": 84}) == ["a", "b"]
    assert chosen({"a": 100, FILE: 20, "Q4_1 as it is, fa off": 30}) == ["a", "Q4_1 as it is, fa off"]
    assert chosen(dict.fromkeys("abcdef", 100)) == ["a", "b"]


@pytest.mark.parametrize(
    ("against", "which"),
    [
        ("all", ("OpenVINO GenAI", "PA")),
        ("llama.cpp", ("llama.cpp", "F16, fa on")),
        ("4-bit", ("llama.cpp", Q4)),
        ("file", ("llama.cpp", FILE)),
    ],
)
def test_the_best_of_what_a_bar_is_about(against: str, which: tuple[str, str]) -> None:
    assert best(MEDIANS, against) == which


def test_ratios_and_verdicts() -> None:
    found = {c.bar.against: c for c in compare(ROW["decode-1"], MEDIANS)}
    assert (found["4-bit"].ratio, found["4-bit"].verdict) == (1.5, "goal")
    assert (found["file"].ratio, found["file"].verdict) == (2.0, "goal")
    assert (found["all"].ratio, found["all"].verdict) == (0.75, "")
    [missed] = [c for c in compare(ROW["prefill-512"], MEDIANS) if c.bar.against == "all"]
    assert missed.verdict == "missed"
    row = Row("r", "r", "decode", 1, 0, bars=(Bar("file", 1.5, 2.5),))
    assert [c.verdict for c in compare(row, MEDIANS)] == ["floor"]
    assert {c.verdict for row in ROWS for c in compare(row, MEDIANS, has_floors=False)} == {""}
    assert compare(row, {key: value for key, value in MEDIANS.items() if key[0] != "farthing"}) == []


def test_the_table_and_the_document_have_every_bar() -> None:
    compared = compare(ROW["prefill-512"], MEDIANS)
    lines = table(compared).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[-3:] == ["1.8", "2.5", "missed"]
    speeds = {("prefill-512", "farthing", "int8"): [1.0, 2.0], ("decode-1", "farthing", "int8"): [3.0]}
    found = document(ROW["prefill-512"], compared, {}, speeds)
    assert found["tok_s"] == {"farthing": {"int8": {"rounds": [1.0, 2.0]}}}
    assert [c["verdict"] for c in found["compared"]] == ["missed", "missed"]
    assert json.loads(json.dumps(found)) == found


class Canned(Engine):
    """Speeds by setting; "x" fails in one row."""

    def __init__(self, name: str, speeds: dict[str, float], asked: list[tuple[str, str]]) -> None:
        super().__init__(name, "1", list(speeds))
        self.speeds, self.asked, self.kept = speeds, asked, set(speeds)

    def ask(self, setting: str, rows: Sequence[Row]) -> Answer:
        assert setting in self.kept
        self.asked.append((self.name, setting))
        errors = {row.name: "no" for row in rows if setting == "x" and row.batch > 1}
        return Answer({row.name: self.speeds[setting] for row in rows if row.name not in errors}, errors)

    def keep(self, settings: Iterable[str]) -> None:
        self.kept = set(settings)


def test_rounds_interleave_and_only_good_settings_are_in_them() -> None:
    asked: list[tuple[str, str]] = []
    engines = [Canned("farthing", {"int8": 3.0}, asked), Canned("peer", {"slow": 1.0, "x": 2.0}, asked)]
    rows = [ROW["decode-1"], ROW["decode-16"]]
    measured = measure(engines, rows, 2, lambda _text: None)
    trials, of_rounds = asked[:6], asked[6:]
    assert trials == [("farthing", "int8")] * 2 + [("peer", "slow"), ("peer", "x")] * 2
    assert [name for name, _ in of_rounds] == ["farthing", "peer", "peer", "peer", "peer", "farthing"]
    assert measured.medians("decode-1") == {("farthing", "int8"): 3.0, ("peer", "x"): 2.0}
    assert measured.medians("decode-16")["peer", "slow"] == 1.0  # x could not
    assert measured.errors == {("peer", "x", "decode-16"): "no"}


SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(CHILDREN)!r})
from serve import serve

class Fake:
    def speed(self, kind, batch, context, is_shared):
        print("chatter")
        if batch == 16:
            raise ValueError("no batches")
        if context == 2048:
            print("out of memory", file=sys.stderr)
            os._exit(9)
        return float(context + len(sys.argv[3]))

serve(Fake)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildEngine]:
    script = tmp_path / "fake.py"
    script.write_text(SCRIPT)
    engine = ChildEngine("fake", "1", ["one", "three"], (sys.executable, str(script), "model"), 1, tmp_path / "logs")
    yield engine
    engine.close()


def test_a_child_answers_and_says_what_it_cannot(child: ChildEngine) -> None:
    rows = [ROW["prefill-512"], ROW["decode-16"]]
    for _ in range(2):
        answer = child.ask("one", rows)
        assert answer == Answer({"prefill-512": 515.0}, {"decode-16": "ValueError: no batches"})
    assert child.ask("three", rows[:1]).speeds == {"prefill-512": 517.0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_is_stopped_between_its_turns(child: ChildEngine) -> None:
    child.ask("one", [ROW["prefill-512"]])
    pid = child._running["one"].pid
    until = time.monotonic() + 30  # it stops a moment after it is told
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until
    child.keep(["three"])
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_that_dies_gives_its_reason_and_can_start_again(child: ChildEngine) -> None:
    answer = child.ask("one", [ROW["prefill-512"], ROW["prefill-2048"]])
    assert set(answer.errors) == {"prefill-512", "prefill-2048"}
    assert answer.errors["prefill-2048"] == "ended with status 9: out of memory"
    assert child.ask("one", [ROW["prefill-512"]]).speeds == {"prefill-512": 515.0}


def test_what_was_made_is_not_made_again_until_its_key_changes(tmp_path: Path) -> None:
    made: list[str] = []
    for key in ("1", "1", "2"):
        once(tmp_path / "stamps" / "thing", key, lambda key=key: made.append(key))  # type: ignore[misc]
    assert made == ["1", "2"]
    with pytest.raises(Missing):
        once(tmp_path / "stamps" / "thing", "3", lambda: run([sys.executable, "-c", "1/0"], tmp_path / "log"))
    once(tmp_path / "stamps" / "thing", "2", lambda: made.append("again"))  # a failure leaves nothing to rely on
    assert made == ["1", "2", "again"]


def test_a_failed_command_gives_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="status 1: ZeroDivisionError"):
        run([sys.executable, "-c", "1/0"], tmp_path / "log")
    with pytest.raises(Missing, match="no-such-program cannot be run"):
        run(["no-such-program"], tmp_path / "log")
