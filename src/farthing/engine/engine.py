"""Engine: submit, step, abort, generate. Synchronous, and deterministic but for the seeds nobody gave."""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Self

from farthing import kernels as native_kernels
from farthing.cache import ColdStats, KVCache
from farthing.economics.usage import Usage
from farthing.engine.answer import take_tokens
from farthing.engine.batch import BatchBuilder
from farthing.engine.calibration import centre_keys
from farthing.engine.cold import open_cold_tier
from farthing.engine.config import EngineConfig, check_experts_folder, check_generates, kv_spec
from farthing.engine.counters import Counters
from farthing.engine.draft_open import LEAST_MATCH, draft_page_bytes, open_draft_model
from farthing.engine.pins import Pins
from farthing.engine.prompt import Prompt, check_bias, encode, encode_prefix
from farthing.engine.sampler import Kernels, Sampler
from farthing.engine.scheduler import Scheduler
from farthing.engine.sequence import Sequence
from farthing.engine.speculative import Drafter, Drafting, JointDrafter, PromptLookup
from farthing.engine.stats import EngineLoad, EngineStats
from farthing.errors import InvalidRequest
from farthing.models import Model, load_model
from farthing.models.tokenizer import Detokenizer
from farthing.request import Constraint, Done, Event, Request, SamplingParams

__all__ = ["Engine"]


class Engine:
    """Answers requests with one model. Not safe for concurrent calls. `close`, or a with statement, ends it.

    clock_ns: a monotonic clock in nanoseconds, read at the beginning and end of each step.
    make_drafter: makes the drafter of a new sequence, joint_drafter drafts for all; where they are not given,
    config.speculation says which.
    Raises InvalidRequest or CapacityError for settings that cannot be.
    """

    def __init__(
        self,
        model: Model,
        config: EngineConfig | None = None,
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        kernels: Kernels = native_kernels,
        make_drafter: Callable[[], Drafter] | None = None,
        joint_drafter: JointDrafter | None = None,
    ) -> None:
        config = config or EngineConfig()
        draft = None if config.draft_model is None else load_model(config.draft_model)
        kv = kv_spec(config, model.config, 0 if draft is None else draft_page_bytes(draft, config))
        max_num_seqs = min(config.max_num_seqs, config.max_num_batched_tokens) if config.is_kv_cached else 1
        self.model, self.config = model, config
        self.max_len = min(model.config.max_position_embeddings, kv.num_pages * kv.page_size)
        check_generates(model)
        check_experts_folder(model, config.experts_folder)
        plan = model.plan(config.product, last_layer="but for queries")
        self.program = kernels.load(
            plan, kv, num_threads=config.num_threads, isa=config.isa, experts_folder=config.experts_folder
        )
        centre_keys(self.program, kv, model.tokenizer)
        self._cold = open_cold_tier(config, model, plan, kv, self.program, clock_ns)
        self.cache = KVCache(
            kv.num_pages,
            kv.page_size,
            is_prefix_cached=config.is_prefix_cached and config.is_kv_cached,
            eviction=config.eviction,
            cold=self._cold,
        )
        self._kernels = kernels
        self._clock_ns = clock_ns
        if draft is not None:
            joint_drafter = open_draft_model(draft, model, config, kv.num_pages, self.program, kernels.run, clock_ns)
        if make_drafter is None and config.speculation != "off":
            make_drafter = partial(PromptLookup, 1 if joint_drafter is None else LEAST_MATCH)
        self._make_drafter = make_drafter if config.is_kv_cached else None
        self._joint_drafter = joint_drafter if config.is_kv_cached else None
        self._pins = Pins(self.cache, model.config.max_position_embeddings)
        self._scheduler = Scheduler(
            self.cache,
            max_num_seqs,
            config.max_num_batched_tokens,
            config.max_tokens_beside_answers,
            config.max_draft_tokens,
            self._joint_drafter,
        )
        self._batches = BatchBuilder(max_num_seqs, config.max_num_batched_tokens, self.max_len, kv.page_size)
        self._sampler = Sampler(kernels, self.program, model.eos_ids)
        self._sequences: dict[int, Sequence] = {}
        self._next_id = 0
        self._is_closed = False
        self._counters = Counters()

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def stats(self) -> EngineStats:
        num_cold_tokens = self.cold_stats().num_restored_pages * self.cache.page_size
        stats = self._counters.stats(num_cold_tokens, self._scheduler.num_preemptions)
        return replace(
            stats,
            draft_s=0.0 if self._joint_drafter is None else self._joint_drafter.seconds,
            num_experts_read=self.program.num_experts_read,
            num_page_faults=self.program.num_page_faults,
            num_sparse_layers=self.model.config.num_sparse_layers,
        )

    def load(self) -> EngineLoad:
        num_used = self.cache.num_leased + self.cache.num_pinned
        num_running, num_waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        return EngineLoad(num_running, num_waiting, self.cache.num_pages, num_used)

    def usage(self, request_id: int) -> Usage:
        """What a request under way has used so far. Raises InvalidRequest where none has this id."""
        return self._under_way(request_id).usage()

    def is_waiting(self, request_id: int) -> bool:
        """Whether a request under way has not been in a step yet. Raises InvalidRequest where none has this id."""
        return self._under_way(request_id).num_cached_tokens is None

    def _under_way(self, request_id: int) -> Sequence:
        seq = self._sequences.get(request_id)
        if seq is None:
            raise InvalidRequest(f"no request is under way under the id {request_id}; give one that submit() returned")
        return seq

    def cold_stats(self) -> ColdStats:
        """What the cold tier holds and did; all zeros without one."""
        return ColdStats() if self._cold is None else self._cold.stats()

    def save_pages(self) -> None:
        """Copy the complete pages that the cold tier does not have yet into it: for idle moments. `close` does it."""
        self.cache.save()

    def close(self) -> None:
        """Abort what is under way, copy pages into the cold tier and let go of its folder; then submit raises."""
        if self._is_closed:
            return
        self._is_closed = True
        for request_id in list(self._sequences):
            self.abort(request_id)
        if self._cold is not None:
            try:
                self.save_pages()
            finally:
                self._cold.close()

    def _need_open(self) -> None:
        if self._is_closed:
            raise InvalidRequest("this engine is closed and takes no more requests: make another")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: Request) -> int:
        """Queue a request; its id, which its events carry. max_tokens is clipped to what context and pages allow.

        Raises CapacityError where the prompt leaves no room for an answer, InvalidRequest for ids that do not exist and
        where the engine is closed.
        """
        self._need_open()
        prompt = encode(self.model, request)
        check_bias(self.model, request.params)
        max_len = self._pins.most_tokens(prompt, num_more=1)
        constraint = None if request.make_constraint is None else request.make_constraint()
        num_tokens = min(len(prompt.token_ids) + request.params.max_tokens, max_len)
        return self._add(prompt, num_tokens, request.params, constraint=constraint, wants_hidden=request.wants_hidden)

    def pin(self, request: Request) -> int:
        """Keep a prefix of prompts in its pages until `unpin(id)`; the id. Its messages need no question at their end.

        It is computed with the other work, as far as it fills whole pages; its Done has no text and says what it cost.
        From then on it is never evicted. Raises CapacityError where its pages would leave too few for requests,
        InvalidRequest where it does not fill a page and where the engine is closed.
        """
        self._need_open()
        if not self.cache.is_prefix_cached:
            raise InvalidRequest("this engine keeps no prefixes, so none can be pinned; make it with is_prefix_cached")
        prompt = encode_prefix(self.model, request, self.cache.page_size)
        self._pins.most_tokens(prompt, num_more=0)
        self._pins.promise(self._next_id, prompt, [seq for seq in self._sequences.values() if not seq.is_pin])
        return self._add(prompt, len(prompt.token_ids), request.params, is_pin=True)

    def unpin(self, pin_id: int) -> Done | None:
        """Let a pinned prefix go: its pages are warm, like others. One still being computed is aborted: its Done.

        Raises InvalidRequest where nothing is pinned under this id.
        """
        seq = self._sequences.get(pin_id)
        if seq is not None and seq.is_pin:
            return self.abort(pin_id)
        if not self._pins.unpin(pin_id):
            raise InvalidRequest(f"no prefix is pinned under the id {pin_id}; give one that pin() returned")
        return None

    def step(self) -> list[Event]:
        """Run one batch: the tokens it produced, then the requests it finished. Empty where there is no work."""
        started_ns = self._clock_ns()
        scheduled = self._scheduler.schedule()
        if not scheduled:
            return []
        batch, rows = self._batches.build(scheduled)
        logits = self._kernels.run(self.program, batch)  # [len(rows), V]
        sampled = self._sampler.sample(logits, rows) if rows else None
        tokens = [] if sampled is None else sampled.token.tolist()
        # Nothing has changed so far: a step that was interrupted can be taken again.
        events: list[Event] = []
        eos_ids, page_size = self.model.eos_ids, self.cache.page_size
        row = 0
        for seq in scheduled:
            assert seq.lease is not None
            seq.is_answering = seq.num_tokens > seq.num_prompt_tokens
            seq.advance(seq.num_scheduled_tokens - seq.num_draft_tokens)
            is_caught_up = seq.num_tokens == seq.num_computed_tokens
            if is_caught_up and seq.is_pin:
                seq.finish_reason = "length"
            elif is_caught_up:
                assert sampled is not None
                if seq.wants_hidden:  # of its first row, which is the prompt's last token
                    seq.hidden, seq.wants_hidden = tuple(self.program.hidden()[row].tolist()), False
                taken = take_tokens(seq, sampled, tokens, row, eos_ids, events)
                row += 1 + seq.num_draft_tokens
                self._counters.take(taken, seq.num_draft_tokens)
            # Not before the drafts are judged: a page that can be found again must not hold a refused one.
            if seq.num_computed_tokens // page_size > seq.lease.num_shared:
                self.cache.commit(seq.lease, seq.token_ids[: seq.num_computed_tokens])
            if seq.num_draft_tokens:
                self._scheduler.drop_drafts(seq)
            if is_caught_up and not self.config.is_kv_cached:
                seq.num_computed_tokens = 0
        elapsed_ns = self._clock_ns() - started_ns
        self._counters.share_time(scheduled, elapsed_ns, len(batch.token_ids))
        if self._cold is not None:
            self._cold.learn(len(batch.token_ids), elapsed_ns)
        events += [self._finish(seq) for seq in scheduled if seq.finish_reason is not None]
        return events

    def abort(self, request_id: int) -> Done | None:
        """Stop a request and give its pages back: its Done, with what there is. None if it has ended already."""
        seq = self._sequences.get(request_id)
        if seq is None:
            return None
        seq.finish_reason = "abort"
        return self._finish(seq)

    def generate(self, requests: Iterable[Request]) -> list[Done]:
        """Answer requests together; in their order. Nothing stays behind if one of them is refused."""
        assert not self.has_work, "generate would lose the events of requests submitted before"
        ids: list[int] = []
        done: dict[int, Done] = {}
        try:
            ids += [self.submit(request) for request in requests]
            while self.has_work:
                done |= {event.request_id: event for event in self.step() if isinstance(event, Done)}
        finally:
            for request_id in list(self._sequences):
                self.abort(request_id)
        return [done[request_id] for request_id in ids]

    def _add(
        self,
        prompt: Prompt,
        max_len: int,
        params: SamplingParams,
        *,
        is_pin: bool = False,
        constraint: Constraint | None = None,
        wants_hidden: bool = False,
    ) -> int:
        has_drafts = self._make_drafter is not None or self._joint_drafter is not None
        drafting = None
        if has_drafts and not is_pin and constraint is None:
            drafter = None if self._make_drafter is None else self._make_drafter()
            drafting = Drafting(drafter, is_joint=self._joint_drafter is not None)
        seq = Sequence(
            id=self._next_id,
            prompt=prompt,
            max_len=max_len,
            params=params,
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            detokenizer=Detokenizer(self.model.tokenizer),
            drafting=drafting,
            is_pin=is_pin,
            constraint=constraint,
            wants_hidden=wants_hidden,
        )
        self._next_id += 1
        self._sequences[seq.id] = seq
        self._scheduler.add(seq)
        return seq.id

    def _finish(self, seq: Sequence) -> Done:
        if seq.is_pin and seq.finish_reason == "length":
            assert seq.lease is not None
            self._pins.keep(seq.id, seq.lease)
        elif seq.is_pin:
            self._pins.give_up(seq.id)
        self._scheduler.remove(seq)
        if self._joint_drafter is not None:
            self._joint_drafter.forget(seq.id)
        del self._sequences[seq.id]
        self._counters.finish(seq)
        if not self._sequences:
            self.cache.check_idle()
        return seq.done()
