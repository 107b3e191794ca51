"""Laws of cascades: a text gets the same in any company, and what is served is what is measured, bit for bit; a stage
that is not asked is not paid."""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.distill.cascade import Stage, serve
from farthing.engine.cascade_classifier import CascadeClassifier, classifier_logs
from farthing.engine.cascade_rule import decide, heard, mixed
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.engine.labelling import Prompt, cut, split_ns
from farthing.models import load_model
from farthing.models.cascade_file import Point
from farthing.models.linear import Linear
from tests.engine.cascades import KNOWN, MAX_TOKENS, POINTS, cascade_file, linear_of
from tests.models.small import GOLDEN

SHARES = st.sampled_from((0.0, 0.15, 0.3, 0.5))
THRESHOLDS = st.one_of(st.none(), st.floats(0, 1))
TEXTS = st.one_of(st.sampled_from(KNOWN), st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
PROMPTS = st.lists(st.one_of(TEXTS, st.lists(st.integers(0, 299), min_size=1, max_size=40)), min_size=1, max_size=7)


@st.composite
def points(draw):
    num = draw(st.integers(1, 3))
    weights = tuple(tuple(draw(SHARES) for _ in range(at)) for at in range(num))
    return Point(weights, tuple(draw(THRESHOLDS) for _ in range(num - 1)))


@lru_cache(maxsize=1)
def models():
    config = ClassifierConfig(num_threads=1)
    return [Classifier(load_model(GOLDEN / f"classifier_{family}"), config) for family in ("llama", "qwen2")]


def cascade_of(point, linear=None, **more):
    file = cascade_file(POINTS | {"best": point})
    return CascadeClassifier("x", file, "best", linear or linear_of(), models(), **more)


def prompts_of(given):
    student = models()[0]
    return [Prompt(student.encode(one), one) if isinstance(one, str) else Prompt(one) for one in given]


def said_of(prompts):
    """What each stage says of every prompt, as distill.labels_report asks for it."""
    student, teacher = models()
    texts = [student.model.tokenizer.decode(p.token_ids) if p.text is None else p.text for p in prompts]
    ids = [cut(prompt.token_ids, MAX_TOKENS) for prompt in prompts]
    of_teacher = [cut(found or [0], MAX_TOKENS) for found in teacher.encode_all(texts)]
    return [linear_of().log_probabilities(texts), classifier_logs(student, ids), classifier_logs(teacher, of_teacher)]


@settings(deadline=None, max_examples=40)
@given(point=points(), prompts=PROMPTS.map(prompts_of))
def test_a_text_gets_the_same_in_any_company(point, prompts):
    cascade = cascade_of(point)
    together = cascade.label(prompts)
    backwards = cascade.label(prompts[::-1])
    np.testing.assert_array_equal(together.logs, backwards.logs[::-1])
    for row, prompt in enumerate(prompts):
        alone = cascade.label([prompt])
        np.testing.assert_array_equal(alone.logs[0], together.logs[row])
        assert alone.stages[0] == together.stages[row] == backwards.stages[::-1][row]


@settings(deadline=None, max_examples=40)
@given(point=points(), prompts=PROMPTS.map(prompts_of))
def test_what_is_served_is_what_is_measured(point, prompts):
    said = said_of(prompts)
    measured = decide(point, len(prompts), said[0].shape[1], lambda stage, rows: said[stage][rows])
    served = cascade_of(point).label(prompts)
    np.testing.assert_array_equal(served.stages, measured.walk.stages)
    np.testing.assert_array_equal(served.logs, measured.logs.astype(np.float32))
    # and as thresholds are searched for, on what every stage would say of every row
    stages = []
    for at, (weights, is_heard) in enumerate(zip(point.weights, heard(point.weights), strict=True)):
        logs, ones = mixed(said[: at + 1], weights), np.ones(len(prompts))
        right = logs.argmax(axis=1) == 0
        stages.append(Stage(str(at), right, np.exp(logs.max(axis=1)), ones, ones, is_heard))
    searched = serve(stages, [np.inf if t is None else t for t in point.thresholds])
    np.testing.assert_array_equal(searched.right, served.logs.argmax(axis=1) == 0)
    assert searched.shares == measured.walk.answered_shares()
    assert searched.asked == measured.walk.asked_shares()


@dataclass
class Clock:
    now_ns: int = 0

    def __call__(self):
        return self.now_ns


@dataclass(frozen=True)
class SlowLinear(Linear):
    clock: Clock = field(default_factory=Clock)

    def log_probabilities(self, texts):
        self.clock.now_ns += 7 * len(texts)
        return super().log_probabilities(texts)


class SlowModel:
    """A classifier that takes so long for a text."""

    def __init__(self, model, clock, each_ns):
        self._model, self._clock, self._each_ns = model, clock, each_ns

    def __getattr__(self, name):
        return getattr(self._model, name)

    def classify(self, token_ids):
        self._clock.now_ns += self._each_ns * len(token_ids)
        return self._model.classify(token_ids)


@settings(deadline=None, max_examples=40)
@given(point=points(), prompts=PROMPTS.map(prompts_of))
def test_who_is_not_asked_is_not_paid_and_all_time_is(point, prompts):
    clock = Clock()
    base = linear_of()
    linear = SlowLinear(base.idf, base.weights, base.offsets, clock)
    slow = [SlowModel(model, clock, each_ns) for model, each_ns in zip(models(), (1_001, 100_003), strict=True)]
    cascade = CascadeClassifier("x", cascade_file(POINTS | {"best": point}), "best", linear, slow, clock_ns=clock)
    found = cascade.label(prompts)
    assert found.times_ns.sum() == clock.now_ns == round(cascade.stats().busy_s * 1e9)
    said = said_of(prompts)
    asked = decide(point, len(prompts), said[0].shape[1], lambda stage, rows: said[stage][rows]).walk.asked
    expected = np.zeros(len(prompts), np.int64)
    for rows, each_ns in zip(asked, (7, 1_001, 100_003), strict=False):
        expected[rows] += split_ns(each_ns * len(rows), [len(prompts[row].token_ids) for row in rows])
    np.testing.assert_array_equal(found.times_ns, expected)
    assert (found.times_ns[found.stages == 0] <= 7 * len(prompts)).all()


@given(total=st.integers(0, 1 << 62), weights=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=20))
def test_nanoseconds_are_conserved(total, weights):
    parts = split_ns(total, [*weights, 1])
    assert sum(parts.tolist()) == total
    assert (parts >= 0).all()


def test_a_point_asks_no_more_than_it_must():
    """What keeps nothing and is heard by nobody is not asked; a point of one stage never asks the student."""
    prompts = prompts_of(KNOWN)
    student, teacher = models()
    for point, told in ((Point(((),), ()), (0, 0)), (Point(((), (0.0,), (0.0, 0.0)), (None, None)), (0, 5))):
        before = student.stats().num_texts, teacher.stats().num_texts
        cascade_of(point).label(prompts)
        assert (student.stats().num_texts - before[0], teacher.stats().num_texts - before[1]) == told


def test_another_point_is_another_cascade():
    prompts = prompts_of([*KNOWN, "something else", "and more"])
    one, other = (replace(POINTS["best"], thresholds=thresholds) for thresholds in ((0.0, 0.0), (1.0, 1.0)))
    assert (cascade_of(one).label(prompts).stages == 0).all()
    assert (cascade_of(other).label(prompts).stages == 2).all()
