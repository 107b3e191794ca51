"""What an engine has done, counted, and its time given to those it was spent on."""

from farthing.engine.answer import Taken
from farthing.engine.sequence import Sequence
from farthing.engine.stats import EngineStats

__all__ = ["Counters"]


class Counters:
    """Since the engine was made."""

    def __init__(self) -> None:
        self._busy_ns = self._num_steps = self._num_computed = self._num_cached = 0
        self._num_output = self._num_draft = self._num_accepted = 0

    def take(self, taken: Taken, num_draft_tokens: int) -> None:
        self._num_output += taken.num_output
        self._num_draft += num_draft_tokens
        self._num_accepted += taken.num_accepted

    def finish(self, seq: Sequence) -> None:
        self._num_cached += seq.num_cached_tokens or 0

    def share_time(self, scheduled: list[Sequence], elapsed_ns: int, num_tokens: int) -> None:
        """Give each sequence the share of its tokens, whole nanoseconds that sum to the step's."""
        self._busy_ns += elapsed_ns
        self._num_steps += 1
        self._num_computed += num_tokens
        so_far = given = 0
        for seq in scheduled:
            so_far += seq.num_scheduled_tokens
            share = elapsed_ns * so_far // num_tokens - given
            given += share
            if seq.is_answering:
                seq.output_ns += share
            else:
                seq.input_ns += share

    def stats(self, num_cold_tokens: int, num_preemptions: int) -> EngineStats:
        return EngineStats(
            self._busy_ns * 1e-9,
            self._num_steps,
            self._num_computed,
            self._num_cached,
            num_cold_tokens,
            self._num_output,
            num_preemptions,
            self._num_draft,
            self._num_accepted,
        )
