"""What a threshold promises and whether it kept it, in words."""

import pytest

from farthing.report.route_terminal import sampled
from farthing.report.route_words import cost, factor, headline, held, promise
from farthing.router.calibrate import Goal, Proven
from farthing.router.curve import Point
from farthing.router.evaluate import Evaluation, ModeResult, Policy

POINT = Point(price=0.1, share=0.4, cost=5.0, quality=0.80, low=0.76, high=0.84, random=0.7)


def proven(goal: Goal, price: float | None = 0.1) -> Proven:
    return Proven(goal, price, 0.05, 0.8, 5.0, 300)


@pytest.mark.parametrize(
    ("goal", "best", "said"),
    [
        (Goal("share", 0.9), 0.88, "held"),
        (Goal("share", 0.9), 0.92, "missed, within the interval"),
        (Goal("share", 0.9), 0.95, "not held"),
        (Goal("quality", 0.8), 0.95, "held"),
        (Goal("quality", 0.81), 0.95, "missed, within the interval"),
        (Goal("cost", 5.0), 0.95, "held"),
        (Goal("cost", 4.9), 0.95, "not held"),
    ],
)
def test_whether_a_promise_held(goal: Goal, best: float, said: str) -> None:
    assert held(proven(goal), POINT, best) == said


def test_a_promise_says_how_surely_and_by_what() -> None:
    said = promise(proven(Goal("share", 0.95, 0.05)), "USD per request")
    assert said.startswith("at least 95.0% of the dearest model's quality; wrong with a chance of at most 0.05")
    assert "on 300 rows" in said
    assert "by always asking the dearest model" in promise(
        proven(Goal("share", 0.95), float("-inf")), "USD per request"
    )
    assert promise(proven(Goal("quality", 0.9), None), "USD per request").startswith("no threshold: ")
    assert "at most 2.5 $/1k requests" in promise(proven(Goal("cost", 0.0025)), "USD per request")
    assert "at most 2.5 $/Mtok" in promise(proven(Goal("cost", 2.5)), "USD per million tokens")


def test_costs_and_factors() -> None:
    assert cost(0.0001234, "USD per request") == "0.1234"
    assert cost(24.7, "USD per million tokens") == "24.7"
    assert (factor(24.7, 9.74), factor(1.0, 0.0)) == ("2.54×", "free")


def test_a_long_curve_is_shown_with_both_ends() -> None:
    points = [Point(float(i), 0, 0, 0, 0, 0, 0) for i in range(41)]
    assert [point.price for point in sampled(points)] == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert sampled(points[:3]) == points[:3]


@pytest.mark.parametrize(
    ("large_cost", "said"), [(10.0, "2.00× cheaper than always b"), (4.0, "1.25× DEARER than always b")]
)
def test_a_headline_does_not_call_dear_what_is_cheap(large_cost: float, said: str) -> None:
    small, large = Policy("a", 1.0, 0.5, 0.4, 0.6), Policy("b", large_cost, 0.85, 0.8, 0.9)
    mode = ModeResult("cascade", (POINT,), proven(Goal("share", 0.9)), POINT, None, None, None)
    found = Evaluation(("a", "b"), "USD per request", 100, (small, large), large, large, (mode,), None)
    assert said in headline(found)
    assert "94.1% of its quality; 10.0 points above lot" in headline(found)
