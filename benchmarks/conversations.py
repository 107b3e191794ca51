"""The work of benchmarks/reuse.py: users who talk at once, behind the same system prompt; farthing's run of it.

A user's prompt is the whole conversation through the model's chat template, as a client sends it: what was answered is
text, and becomes tokens anew. So whether it is found again in the cache is measured, not assumed.
"""

import heapq
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from farthing.economics.usage import Usage
from farthing.engine import Engine, EngineConfig
from farthing.models import Model
from farthing.request import Done, Message, Request, SamplingParams, Token

__all__ = ["Play", "Run", "Turn", "first_token_s", "play_farthing", "question", "system_prompt"]

RULES = (
    "You answer visitors of the harbour museum of Port Ellery. Be friendly and exact, and write whole sentences.",
    "The museum opens at nine and closes at six; on Thursdays it stays open until nine in the evening.",
    "A ticket costs eight pounds, five for students, and nothing for children under twelve.",
    "The ground floor shows ships' models, the first floor paintings of the coast, the second floor maps.",
    "The oldest map was drawn in 1588 by a pilot whose name is not known; it hangs in the last room on the left.",
    "The café beside the entrance serves soup and bread until five, and tea until the museum closes.",
    "Guided tours start at ten and at two from the stairs; a tour takes fifty minutes and costs three pounds more.",
    "The tower can be climbed in dry weather; it has two hundred and four steps and no lift.",
    "Bags larger than a coat are left in the lockers behind the ticket desk, which take a coin of one pound.",
    "Photographs may be taken without flash, but not in the room of the letters, whose ink fades in light.",
    "The letters were written by the keepers of the lighthouse between 1790 and 1931, one on every Sunday.",
    "Dogs wait in the yard, where there is water and shade; guide dogs may come in everywhere.",
    "The bus of line seven stops at the gate every twenty minutes, the last one leaves at half past nine.",
    "Groups of ten and more write a week ahead, and get a room in which they can eat what they brought.",
    "The shop sells prints of the maps, books on knots and sails, and a calendar of the tides.",
    "If you do not know an answer, say so, and send the visitor to the desk; never guess a price or an hour.",
    "The library on the third floor is open to everyone on weekdays from ten to four; ask for a reader's card.",
    "The big crane in the yard was built in 1874 and still lifts forty tons; it is shown on the first of each month.",
    "In the winter the tower, the yard and the crane are closed, and the tickets cost two pounds less.",
    "On the last Sunday of June the boats of the harbour race around the island, and the museum is free for all.",
    "Lost things are kept for a month.",
    "The desk lends umbrellas.",
)
NAMES = ("Ada", "Ben", "Cora", "Dan", "Edith", "Finn", "Grace", "Hugh", "Ida", "Jack", "Kate", "Leo", "Mary", "Ned")
NAMES += ("Olive", "Paul", "Ruth", "Sam")
THINGS = ("the old maps", "the lighthouse", "the crane", "the letters", "the paintings", "the models of ships", "knots")
ASKED = (
    "Please tell me in detail what I can see and do there, and in which order I should go through the rooms.",
    "Now explain to me please why it was made, who worked with it in those days, what it cost, "
    "and what became of those people when they were old.",
    "That is interesting, thank you. What else in the museum belongs to it, how do I get there from the entrance, "
    "and how much time should I take?",
    "I would like to write about it for my school. Give me the beginning of a text, "
    "some sentences long, that I can go on from when I am at home.",
    "One more thing before I leave you: what would you show to a friend who has only an hour, "
    "and what may wait for another day?",
)
Clock = Callable[[], float]


@dataclass(frozen=True)
class Play:
    """Everyone arrives at once; who has an answer sends the next message think_s later. Answers have one length."""

    num_users: int = 16
    num_turns: int = 5
    system_tokens: int = 512
    answer_tokens: int = 64
    think_s: float = 0.0

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(temperature=0, max_tokens=self.answer_tokens, ignore_eos=True)


@dataclass(frozen=True)
class Turn:
    """One answer. Seconds are since the message was sent; `engine_s` is the engine's own account, where it has one."""

    user: int
    number: int
    input_tokens: int  # includes cache_read_tokens
    cache_read_tokens: int
    output_tokens: int
    first_token_s: float | None
    seconds: float
    answer: str
    engine_s: float | None = None


@dataclass
class Run:
    """The whole work once. `busy_s` is what the engine says that it was busy; farthing's `usage` splits those seconds.
    `others_s` is the processor time that other programs took meanwhile."""

    seconds: float
    turns: list[Turn]
    busy_s: float
    usage: Usage | None = None
    answers: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)  # user, turn: token ids
    others_s: float | None = None

    def total(self, name: str) -> int:
        return sum(getattr(turn, name) for turn in self.turns)


def system_prompt(model: Model, num_tokens: int) -> str:
    """A text that is exactly num_tokens long as the conversation's first message, with all that the template adds."""

    def length(text: str) -> int:
        return len(model.encode_chat((Message("system", text),), add_generation_prompt=False))

    text = ""
    for piece in (*(f"{rule} " for rule in RULES), *["a "] * num_tokens):
        if length(text + piece) <= num_tokens:
            text += piece
    for end in ("", "a", ".", "a."):
        if length(text + end) == num_tokens:
            return text + end
    raise ValueError(f"no text of {num_tokens} tokens was found for this tokenizer; at hand: {length(text)}")


def question(user: int, turn: int) -> str:
    """About 40 tokens, another text for every user and turn, different from its first words on."""
    name, thing = NAMES[user % len(NAMES)], THINGS[(user + user // len(THINGS)) % len(THINGS)]
    who = f"{name}, guest number {user + 1}, here, and I came for {thing}." if turn == 0 else f"It is {name} again."
    return f"{who} {ASKED[turn % len(ASKED)]}"


def first_token_s(turns: Sequence[Turn]) -> dict[str, float]:
    """Median and 95th percentile of the seconds until the first token."""
    values = sorted(turn.first_token_s for turn in turns if turn.first_token_s is not None)
    return {"median": statistics.median(values), "p95": values[min(len(values) - 1, int(0.95 * len(values)))]}


def play_farthing(model: Model, config: EngineConfig, play: Play, clock: Clock = time.perf_counter) -> Run:
    """One engine, made for this run and so with an empty cache, in one loop: whose turn it is, then a step."""
    engine = Engine(model, config)
    system = Message("system", system_prompt(model, play.system_tokens))
    talks = [[system] for _ in range(play.num_users)]
    run = Run(0.0, [], 0.0, Usage())
    asked: dict[int, tuple[int, float]] = {}  # request: user, when the message was sent
    first: dict[int, float] = {}
    started = clock()
    due = [(started, user) for user in range(play.num_users)]  # a heap: who sends a message next
    while due or engine.has_work:
        while due and due[0][0] <= clock():
            when, user = heapq.heappop(due)
            talks[user].append(Message("user", question(user, len(talks[user]) // 2)))
            asked[engine.submit(Request(tuple(talks[user]), params=play.params))] = (user, when)
        if not engine.has_work:
            time.sleep(max(0.0, due[0][0] - clock()))
            continue
        for event in engine.step():
            if isinstance(event, Token):
                first.setdefault(event.request_id, clock())
            else:
                user, sent = asked[event.request_id]
                talks[user].append(Message("assistant", event.text))
                _note(run, event, user, len(talks[user]) // 2 - 1, first[event.request_id] - sent, clock() - sent)
                if len(talks[user]) < 2 * play.num_turns:
                    heapq.heappush(due, (clock() + play.think_s, user))
    run.seconds, run.busy_s = clock() - started, engine.stats().busy_s
    return run


def _note(run: Run, done: Done, user: int, number: int, first_s: float, seconds: float) -> None:
    usage = done.usage
    counts = (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens)
    run.turns.append(Turn(user, number, *counts, first_s, seconds, done.text))
    run.answers[user, number] = done.token_ids
    run.usage = usage if run.usage is None else run.usage + usage
