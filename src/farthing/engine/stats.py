"""What an engine has done since it was made, and what it is at."""

from dataclasses import dataclass

__all__ = ["EngineLoad", "EngineStats"]


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was made."""

    busy_s: float  # in steps; the seconds given to requests sum to this
    num_steps: int
    num_computed_tokens: int  # tokens run through the model, repetitions and drafts included
    num_cached_tokens: int  # prompt tokens that were found in pages instead
    num_cold_tokens: int  # tokens whose pages came back from the cold tier, those of preempted requests included
    num_output_tokens: int
    num_preemptions: int
    num_draft_tokens: int  # guessed and run through the model
    num_accepted_tokens: int  # drafts that were right, each an output token without a step of its own
    draft_s: float = 0.0  # of busy_s, in a draft model
    num_experts_read: int = 0  # distinct ones of each sparse layer and step (of its tokens, each 512)
    num_page_faults: int = 0  # waits for the disk, where experts are kept in a file
    num_sparse_layers: int = 0

    @property
    def experts_per_step(self) -> float:
        """Distinct experts that a sparse layer reads in a step, the mean; 0 for a dense model."""
        num_looks = self.num_steps * self.num_sparse_layers
        return self.num_experts_read / num_looks if num_looks else 0.0


@dataclass(frozen=True)
class EngineLoad:
    """What an engine holds at this moment."""

    num_running: int
    num_waiting: int  # for room, or for another's pages
    num_pages: int
    num_used_pages: int  # that cannot be given to others: leased or pinned

    @property
    def used_share(self) -> float | None:
        """Of the pages, 0 to 1; None where nothing is kept in pages."""
        return self.num_used_pages / self.num_pages if self.num_pages else None
