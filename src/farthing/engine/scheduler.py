"""Who computes what in the next step.

There is no prefill phase and no decode phase: every running sequence has tokens that are not computed yet, one or many.
Those with one go first, so that a long prompt does not hold up answers. What is left of the step's tokens goes to the
longer ones, oldest first, then to waiting requests in the order they came; beside answers, which wait for the whole
step, it is less. Drafts take what nobody needed.

Nobody starves and nothing locks up. Pages are taken from the youngest, so the oldest always gets on. Only running
sequences announce pages, and they wait for nobody, so waiting for another's pages always ends. A request that was let
in took what was left of the step's tokens, and the others need no more of them in the next step: so it gets some again.
"""

from bisect import insort
from operator import attrgetter

from farthing.cache import KVCache, UnderWay
from farthing.engine.sequence import Sequence
from farthing.engine.speculative import Asked, JointDrafter, TokenIds, lengths

__all__ = ["Scheduler"]

_Offer = tuple[Sequence, TokenIds, list[float]]  # drafts, and how likely each is right with all before it

# A draft model computes so many tokens of a prompt in the time of a step. Before it does so for the whole prompt the
# answer has gone on for as long: so a short answer loses little, and a long one twice as little.
_PROMPT_PER_STEP = 80

_by_age = attrgetter("id")


class Scheduler:
    """Holds the sequences; `schedule` sets num_scheduled_tokens of those that compute in the next step."""

    def __init__(
        self,
        cache: KVCache,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_tokens_beside_answers: int,
        max_draft_tokens: int,
        joint_drafter: JointDrafter | None = None,
    ) -> None:
        self.waiting: list[Sequence] = []  # oldest first
        self.running: list[Sequence] = []  # oldest first
        self.num_preemptions = 0
        self._cache = cache
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_tokens_beside_answers = max_tokens_beside_answers
        self._max_draft_tokens = max_draft_tokens
        self._joint_drafter = joint_drafter

    def add(self, seq: Sequence) -> None:
        insort(self.waiting, seq, key=_by_age)

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence, running or waiting, and give its pages back."""
        if seq.lease is None:
            self.waiting.remove(seq)
        else:
            self.running.remove(seq)
            self._release(seq)

    def drop_drafts(self, seq: Sequence) -> None:
        """Forget a sequence's drafts, and give back the room behind its tokens."""
        if seq.num_draft_tokens and seq.lease is not None:
            self._cache.truncate(seq.lease, min(seq.num_tokens, seq.lease.num_tokens))
            seq.num_draft_tokens = 0

    def schedule(self) -> list[Sequence]:
        """The sequences of the next step, oldest first; empty only if there are none at all."""
        for seq in self.running:
            seq.num_scheduled_tokens = 0
            if seq.num_draft_tokens:
                self.drop_drafts(seq)
        budget = self._continue_running(self._max_num_batched_tokens)
        if self.waiting:
            budget = self._admit(budget)
        if budget:
            self._draft(budget)
        scheduled = [seq for seq in self.running if seq.num_scheduled_tokens]
        assert scheduled or not (self.running or self.waiting), "there is work, but nobody can go on"
        return scheduled

    def _continue_running(self, budget: int) -> int:
        """Schedule the running sequences, those with one pending token first; what is left of the budget."""
        longer, is_anyone_answered = [], False
        for seq in tuple(self.running):
            if seq.num_tokens - seq.num_computed_tokens == 1:
                budget = self._continue(seq, budget)
                is_anyone_answered |= seq.num_scheduled_tokens > 0
            else:
                longer.append(seq)
        if is_anyone_answered:
            budget = min(budget, self._max_tokens_beside_answers)
        for seq in longer:
            budget = self._continue(seq, budget)
        return budget

    def _continue(self, seq: Sequence, budget: int) -> int:
        if seq.lease is None or not budget:  # preempted for an older one, just now
            return budget
        missing = seq.num_tokens - seq.lease.num_tokens
        while not self._cache.grow(seq.lease, missing):
            budget += self._preempt(self.running[-1])
            if seq.lease is None:
                return budget
        seq.num_scheduled_tokens = min(seq.num_tokens - seq.num_computed_tokens, budget)
        return budget - seq.num_scheduled_tokens

    def _admit(self, budget: int) -> int:
        """Let waiting requests in while there are places, tokens and pages for their whole prompts; what is left.

        One that waits for another's pages lets younger ones pass; one that waits for room does not.
        """
        at = 0
        while at < len(self.waiting) and budget and len(self.running) < self._max_num_seqs:
            seq = self.waiting[at]
            if seq.under_way is not None and not seq.under_way.is_over:
                at += 1
                continue
            seq.under_way = None
            tokens = seq.token_ids[: seq.num_tokens]  # [num_tokens]
            found = self._cache.match(tokens, seq.prompt.salt, seq.prompt.num_public)
            if isinstance(found, UnderWay):
                seq.under_way = found
                at += 1
                continue
            num_new_pages = -(-seq.num_tokens // self._cache.page_size) - found.num_pages
            # A page more for everyone who runs: else a newcomer would soon be put out again for a page of theirs.
            is_room = num_new_pages + len(self.running) <= self._cache.num_available
            if not is_room or not self._cache.grow(found, seq.num_tokens - found.num_tokens):
                self._cache.release(found)
                return budget
            self._cache.restore(found, tokens)
            self._cache.announce(found, tokens)
            del self.waiting[at]
            insort(self.running, seq, key=_by_age)
            seq.lease = found
            seq.num_computed_tokens = found.num_shared * self._cache.page_size
            if seq.num_cached_tokens is None:
                seq.num_cached_tokens = seq.num_computed_tokens
            seq.num_scheduled_tokens = min(seq.num_pending_tokens, budget)
            budget -= seq.num_scheduled_tokens
        return budget

    def _draft(self, budget: int) -> None:
        """Add drafts to answering sequences, as many as pay; whoever finds no page for them goes without."""
        if not any(seq.drafting is not None for seq in self.running):
            return
        num_tokens = sum(seq.num_scheduled_tokens for seq in self.running)
        answering = [seq for seq in self.running if seq.num_scheduled_tokens == 1 and seq.num_output_tokens]
        drafting = [seq for seq in answering if seq.drafting is not None]
        offers = self._offers(drafting, len(answering), num_tokens, budget)
        taken = lengths([chances for _, _, chances in offers], len(answering), num_tokens, budget)
        for (seq, drafts, _), n in zip(offers, taken, strict=True):
            assert seq.lease is not None
            if n and self._cache.grow(seq.lease, n):
                seq.token_ids[seq.num_tokens : seq.num_tokens + n] = drafts[:n]
                seq.num_draft_tokens = n
                seq.num_scheduled_tokens += n

    def _offers(self, seqs: list[Sequence], num_answering: int, num_tokens: int, budget: int) -> list[_Offer]:
        """Drafts of sequences, as far as they have any; those of the joint drafter made for all of them together."""
        offers: list[_Offer] = []
        asked: list[tuple[Sequence, list[float]]] = []
        cost = self._joint_drafter.cost(num_answering) if self._joint_drafter is not None else 0.0
        for seq in seqs:
            assert seq.drafting is not None
            # One place is for the token that is chosen after the last draft.
            most = min(self._max_draft_tokens, budget, len(seq.token_ids) - seq.num_tokens - 1)
            known = seq.token_ids[: seq.num_tokens]
            drafts, chances = seq.drafting.propose(known, most, num_answering, num_tokens)
            has_begun = seq.num_output_tokens * _PROMPT_PER_STEP >= seq.num_prompt_tokens
            if has_begun and (wanted := seq.drafting.joint(chances, most, num_answering, num_tokens, cost)):
                asked.append((seq, wanted))
            elif len(drafts):
                offers.append((seq, drafts, chances))
        if asked:
            assert self._joint_drafter is not None
            questions = [Asked(seq.id, seq.token_ids[: seq.num_tokens], len(wanted)) for seq, wanted in asked]
            for (seq, wanted), drafts in zip(asked, self._joint_drafter.propose(questions), strict=True):
                assert len(drafts) <= len(wanted), f"a drafter gave {len(drafts)} drafts for {len(wanted)}"
                if len(drafts):
                    offers.append((seq, drafts, wanted[: len(drafts)]))
        return offers

    def _preempt(self, seq: Sequence) -> int:
        """Put a running sequence back among the waiting; the tokens it had been given in this step.

        Its complete pages stay warm: it may find them again, or else it computes them again.
        """
        self.running.remove(seq)
        self._release(seq)
        self.add(seq)
        self.num_preemptions += 1
        returned, seq.num_scheduled_tokens = seq.num_scheduled_tokens, 0
        return returned

    def _release(self, seq: Sequence) -> None:
        assert seq.lease is not None
        self._cache.release(seq.lease)
        seq.lease = None
