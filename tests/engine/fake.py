"""A model of no parameters that notices every mistake of a scheduler or cache.

Its "keys and values" are the token ids and positions themselves, stored in pages; its logits are a hash of what
attention would see through the page table. A wrong page, position, order, or a page overwritten while another reads it,
changes what comes out; `naive` says what should.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import numpy as np

from farthing.engine import Engine, EngineConfig
from farthing.engine.draft_ids import DraftIds
from farthing.engine.draft_model import DraftModel
from farthing.kernels import Sampled
from farthing.kernels.plan import Batch, KVSpec
from farthing.request import Request, SamplingParams

VOCAB_SIZE = 40
EOS = 39
PIECES = [*"abcdefghijklmnopqrstuvwxyz .", "é".encode()[:1], "é".encode()[1:], *"0123456789"]
TEXT = [piece if isinstance(piece, bytes) else piece.encode() for piece in PIECES]  # 29 and 30 are halves of a letter


class FakeTokenizer:
    _vocabulary = SimpleNamespace(strip_first_space=False)

    def is_control(self, id: int) -> bool:
        return id == EOS

    def token_bytes(self, id: int) -> bytes:
        return TEXT[id] if id < len(TEXT) else b""

    def whole_text(self, id: int) -> str | None:  # noqa: ARG002
        return None  # the decoder sees every token


class FakeModel:
    """What the engine asks of a model."""

    eos_ids = frozenset({EOS})
    tokenizer = FakeTokenizer()
    labels = None

    def __init__(self, context: int = 512) -> None:
        self.config = SimpleNamespace(
            labels=(),
            num_layers=1,
            num_kv_heads=1,
            head_dim=8,
            vocab_size=VOCAB_SIZE,
            max_position_embeddings=context,
            windows=(),
            experts=None,
            num_sparse_layers=0,
        )

    def identity(self) -> str:
        return "fake"

    def plan(self, product: str, *, last_layer: str = "all") -> str:  # noqa: ARG002
        return product

    def encode_chat(self, messages, *, add_generation_prompt: bool = True) -> list[int]:  # noqa: ARG002
        return [TEXT.index(letter.encode()) for message in messages for letter in message.content]


def stored(token_ids, positions):
    return (np.asarray(token_ids, np.uint64) + np.uint64(1)) * np.uint64(1_000_003) + np.asarray(positions, np.uint64)


def logits_of(seen: np.ndarray) -> np.ndarray:
    """[V] from what is seen, uint64 [positions]; a little more likely to repeat small ids than the end of sequence."""
    with np.errstate(over="ignore"):
        weights = np.arange(1, len(seen) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
        rows = np.arange(VOCAB_SIZE, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
        mixed = (seen * weights).sum(dtype=np.uint64) + rows
        for shift in (31, 29, 32):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(0x94D049BB133111EB)
    return ((mixed >> np.uint64(40)).astype(np.float32)) / np.float32(2**22)


def naive(prompt, params: SamplingParams, max_len: int = 512) -> list[int]:
    """Greedy answer of the one-token-at-a-time loop, no pages, no batch. Ends before the end of sequence."""
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + params.max_tokens, max_len):
        token = int(logits_of(stored(tokens, range(len(tokens)))).argmax())
        if token == EOS and not params.ignore_eos:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


class FakeProgram:
    isa = "fake"
    weight_bytes = kv_bytes = num_experts_read = num_page_faults = 0

    def __init__(self, kv: KVSpec) -> None:
        self.kv = kv
        self.memory = np.zeros((kv.num_pages, kv.page_size), np.uint64)
        self.pages = self.memory.view(np.uint8)  # [num_pages, page_bytes]

    def run(self, batch: Batch) -> np.ndarray:
        size = self.kv.page_size
        assert 0 <= batch.page_tables.min() <= batch.page_tables.max() < self.kv.num_pages
        assert batch.page_tables.flags.c_contiguous
        assert batch.seq_starts[-1] == len(batch.token_ids) == len(batch.positions)
        for b, (start, end) in enumerate(pairwise(batch.seq_starts)):
            assert start < end
            positions = batch.positions[start:end]
            assert (np.diff(positions) == 1).all()
            pages = batch.page_tables[b, positions // size]
            self.memory[pages, positions % size] = stored(batch.token_ids[start:end], positions)
        logits = self.logits = np.zeros((len(batch.logit_rows), VOCAB_SIZE), np.float32)
        for i, row in enumerate(batch.logit_rows):
            b = int(np.searchsorted(batch.seq_starts, row, "right")) - 1
            position = int(batch.positions[row])
            logits[i] = logits_of(self.memory[batch.page_tables[b, : position // size + 1]].reshape(-1)[: position + 1])
        return logits

    def hidden(self) -> np.ndarray:
        """The last run's first logits stand for what they were computed from."""
        return self.logits[:, :8].copy()


class FakeKernels:
    """Greedy where temperature is 0, otherwise a draw by (seed, step) from the softmax."""

    def load(self, plan, kv, *, num_threads, isa, experts_folder) -> FakeProgram:  # noqa: ARG002
        return FakeProgram(kv)

    def run(self, program: FakeProgram, batch: Batch) -> np.ndarray:
        return program.run(batch)

    def sample(self, program: FakeProgram, logits: np.ndarray, **p) -> Sampled:  # noqa: ARG002
        logits = logits.copy()
        logs = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
        for i, (start, end) in enumerate(pairwise(p["history_starts"])):
            logits[i, p["history"][start:end]] /= p["penalty"][i]
        draws = [np.random.default_rng([int(s), int(t)]) for s, t in zip(p["seed"], p["step"], strict=True)]
        noise = np.array([draw.gumbel(size=VOCAB_SIZE) for draw in draws])
        token = (logits + p["temperature"][:, None] * noise).argmax(1).astype(np.int32)
        top = np.argsort(-logs, axis=1, kind="stable")[:, : p["num_top"]].astype(np.int32)
        logprob = np.where(p["wants_logprob"], logs[np.arange(len(token)), token], 0).astype(np.float32)
        return Sampled(token, logprob, top, np.take_along_axis(logs, top, 1).astype(np.float32))


@dataclass
class FakeClock:
    """Goes on by an odd number of nanoseconds each time it is read."""

    now: int = 0
    steps: list[int] = field(default_factory=lambda: [1_000_003, 77_777, 5_432_101])

    def __call__(self) -> int:
        self.steps.append(self.steps.pop(0))
        self.now += self.steps[0]
        return self.now


def make_engine(*, context: int = 512, clock=None, make_drafter=None, joint_drafter=None, **config) -> Engine:
    settings = EngineConfig(**{"page_size": 8, "num_pages": 64, **config})
    clock_ns = clock or FakeClock()
    drafters = {"make_drafter": make_drafter, "joint_drafter": joint_drafter}
    return Engine(FakeModel(context), settings, kernels=FakeKernels(), clock_ns=clock_ns, **drafters)


def make_draft_model(*, num_pages: int = 64, max_len: int = 512, most_tokens: int = 256) -> DraftModel:
    """The model of no parameters as its own draft model: right wherever it is greedy."""
    kv = KVSpec(1, 1, 8, num_pages, 8)
    kernels, same = FakeKernels(), np.arange(VOCAB_SIZE, dtype=np.int32)
    ids = DraftIds(same, np.where(same == EOS, np.int32(-1), same))
    program = kernels.load("plan", kv, num_threads=1, isa="fake", experts_folder=None)
    return DraftModel(kernels.run, program, kv, ids, max_len=max_len, cost_of_one=0.1, most_tokens=most_tokens)


def greedy(*token_ids: int, max_tokens: int = 16, salt: str = "", **params) -> Request:
    return Request(
        token_ids=tuple(token_ids), params=SamplingParams(temperature=0.0, max_tokens=max_tokens, **params), salt=salt
    )
