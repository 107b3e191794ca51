"""llama.cpp: its own llama-bench and llama-batched-bench, each setting on its own file."""

import json
import re
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.child import Answer, Engine
from benchmarks.peers.works import Row

__all__ = ["LlamaCpp", "Setting", "parse_batched_bench", "parse_bench", "settings_for"]

STEPS = 32
TIMEOUT_S = 1800.0
CONTEXT = {1: 2304, 16: 12288}  # per batch: room for the longest row; without a shared pool it is divided


@dataclass(frozen=True)
class Setting:
    """is_unified: one pool of K and V for all sequences, so that a shared prefix lies in it once."""

    weights: str  # which file
    is_flash: bool
    is_unified: bool = False
    kv: str = "f16"

    def __str__(self) -> str:
        kv = f", {self.kv} cache" if self.kv != "f16" else ""
        return f"{self.weights}, fa {'on' if self.is_flash else 'off'}{', kvu' if self.is_unified else ''}{kv}"

    @property
    def options(self) -> list[str]:
        # Without flash attention llama.cpp has no quantized V.
        kv = ["-ctk", self.kv, *(["-ctv", self.kv] if self.is_flash else [])] if self.kv != "f16" else []
        return ["-fa", "on" if self.is_flash else "off", *kv]


def settings_for(weights: Iterable[str], with_q8_cache: Iterable[str]) -> list[Setting]:
    """Every file with flash attention on and off; a pool per sequence and one for all; some with 8-bit K and V."""
    both = (True, False)
    found = [Setting(name, flash, unified) for name in weights for unified in both[::-1] for flash in both]
    return found + [Setting(name, flash, kv="q8_0") for name in with_q8_cache for flash in both]


def parse_bench(text: str) -> dict[tuple[str, int], float]:
    """llama-bench -o json: tokens per second by kind and depth or prompt."""
    found = {}
    for row in json.loads(text):
        key = ("prefill", row["n_prompt"]) if row["n_prompt"] else ("decode", row["n_depth"])
        found[key] = float(row["avg_ts"])
    return found


def parse_batched_bench(text: str) -> dict[tuple[str, int], float]:
    """llama-batched-bench --output-format jsonl, other lines between: tokens per second by kind and prompt, the mean
    where a prompt was measured more than once."""
    speeds: dict[tuple[str, int], list[float]] = {}
    for line in re.findall(r"^\{.*\}$", text, re.MULTILINE):
        row = json.loads(line)
        for kind, speed in (("prefill", row["speed_pp"]), ("decode", row["speed_tg"])):
            speeds.setdefault((kind, row["pp"]), []).append(float(speed))
    return {key: statistics.fmean(values) for key, values in speeds.items()}


class LlamaCpp(Engine):
    """`repetitions` of what is short on a small model."""

    def __init__(
        self,
        version: str,
        programs: Path,
        files: Mapping[str, Path],
        settings: Sequence[Setting],
        threads: int,
        repetitions: int,
    ) -> None:
        super().__init__("llama.cpp", version, [str(setting) for setting in settings])
        self._programs, self._files, self._threads, self._repetitions = programs, files, threads, repetitions
        self._settings = dict(zip(self.settings, settings, strict=True))

    def rows_of(self, setting: str, rows: Iterable[Row]) -> list[Row]:
        given = self._settings[setting]
        long_rows = ("decode-1-2048", "decode-16-shared")  # where the size of K and V may count
        return [
            row
            for row in rows
            if (row.batch > 1 or not given.is_unified)
            and (given.kv == "f16" or row.name in long_rows)
            and (row.kind == "prefill" or given.weights != "F16")  # four times the bytes for a token
        ]

    def ask(self, setting: str, rows: Sequence[Row]) -> Answer:
        """One run of a program for each group of rows that it can measure together."""
        answer = Answer()
        groups: dict[tuple[str, int, bool], list[Row]] = {}
        for row in rows:
            program = "bench" if row.context == 0 else "batched"
            groups.setdefault((program, row.batch, row.is_shared), []).append(row)
        for (program, _, _), group in groups.items():
            measure = self._bench if program == "bench" else self._batched_bench
            try:
                speeds = measure(self._settings[setting], group)
                answer.speeds.update({row.name: speeds[row.kind, row.context] for row in group})
            except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                answer.errors.update({row.name: _said(error) for row in group})
        return answer

    def _bench(self, setting: Setting, rows: list[Row]) -> dict[tuple[str, int], float]:
        assert {(row.kind, row.context) for row in rows} == {("decode", 0)}
        options = ["-p", "0", "-n", str(STEPS), "-r", str(self._repetitions), "-o", "json"]
        return parse_bench(self._run("llama-bench", setting, options))

    def _batched_bench(self, setting: Setting, rows: list[Row]) -> dict[tuple[str, int], float]:
        batch = rows[0].batch
        prompts = [
            c for c in sorted({row.context for row in rows}) for _ in range(self._repetitions if c <= 512 else 1)
        ]
        options = ["-c", str(CONTEXT[batch]), "-npl", str(batch), "-npp", ",".join(map(str, prompts))]
        options += ["-ntg", str(STEPS), "--output-format", "jsonl"]
        options += ["-pps"] if rows[0].is_shared else []
        options += ["-kvu"] if setting.is_unified else []
        return parse_batched_bench(self._run("llama-batched-bench", setting, options))

    def _run(self, program: str, setting: Setting, options: list[str]) -> str:
        command = [self._programs / program, "-m", self._files[setting.weights], "-t", str(self._threads)]
        done = subprocess.run(
            [*command, *setting.options, *options], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        return done.stdout


def _said(error: Exception) -> str:
    said = (getattr(error, "stderr", None) or "").strip().splitlines()
    if isinstance(error, subprocess.CalledProcessError):
        return f"ended with status {error.returncode}: {said[-1][:300] if said else 'it said nothing'}"
    return f"{type(error).__name__}: {str(error)[:300]}"
