"""Trained in one file and back. Everything read is checked against everything else before it is believed."""

from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Goal, Proven
from farthing.router.curve import Point
from farthing.router.drift import Baseline
from farthing.router.file import Contents, read, write
from farthing.router.hidden import HiddenSpace
from farthing.router.origin import Origin, Unit
from farthing.router.policy import checked_costs
from farthing.router.probability import Platt
from farthing.router.scorer_file import read_scorer, scorer_arrays
from farthing.router.trained import MODES, Check, Trained

__all__ = ["load", "save"]

_POINT = ("price", "share", "cost", "quality", "low", "high", "random")
_SIGNALS = ("expected gap", "log_chars", "known words")
_ROWS = ("trained", "calibrated")
_MAX_PRICE = 1e300  # stands for infinity, which JSON and the checks of arrays do not know


def save(trained: Trained, path: Path) -> None:
    document: dict[str, Any] = {
        "models": list(trained.models),
        "before.penalty": trained.before.penalty,
        "topic_words": [list(topic) for topic in trained.topic_words],
        "base_rows": trained.base.num_rows,
        "unit": trained.origin.unit,
        "proven": {mode: _proven_document(found) for mode, found in trained.proven.items()},
    }
    arrays: dict[str, NDArray[Any]] = {"costs": np.array(trained.costs), **scorer_arrays(trained.before, "before")}
    for number, check in trained.checks.items():
        after = _after(number)
        document[f"{after}.penalty"] = check.scorer.penalty
        arrays |= scorer_arrays(check.scorer, after)
        arrays[_named("check", number)] = np.array([check.platt.slope, check.platt.offset, *check.next_quality])
        arrays[_named("spread", number)] = np.array(check.spread)
    if trained.hidden is not None:
        document["hidden.model"] = trained.hidden.model
        arrays["hidden.center"] = trained.hidden.center.astype(np.float32)
        arrays["hidden.directions"] = trained.hidden.directions.astype(np.float32)
    for name in _ROWS:
        arrays[f"rows.{name}"] = getattr(trained.origin, name).astype(np.int32)
    for mode, prices in trained.prices.items():
        arrays[f"prices.{mode}"] = _finite(prices)
    for mode, points in trained.curves.items():
        arrays[f"curve.{mode}"] = np.stack([_finite([getattr(point, name) for name in _POINT]) for point in points])
    for name in trained.base.edges:
        arrays[f"drift.{name}.edges"] = trained.base.edges[name]
        arrays[f"drift.{name}.shares"] = trained.base.shares[name]
    write(path, document, arrays)


def load(path: Path) -> Trained:
    contents = read(path)
    models = contents.value("models", list)
    if len(models) < 2 or not all(isinstance(name, str) for name in models) or len(set(models)) != len(models):
        raise contents.corrupt("models are no list of two or more names")
    costs = _costs(contents, len(models))
    before = read_scorer(contents, "before", len(models), reads_answers=False)
    if "hidden" in before.forms:
        raise contents.corrupt("it looks at hidden states before the call")
    checked = [number for number in range(len(models) - 1) if contents.has(_named("check", number))]
    checks = {number: _check(contents, number, len(models)) for number in checked}
    if checks and 0 not in checks:
        raise contents.corrupt("it checks other models' answers, and not the first one's")
    modes = [mode for mode in MODES if mode == "route" or checks]
    prices = {mode: _prices(contents, mode) for mode in modes}
    proven = contents.value("proven", dict)
    if not proven.keys() <= prices.keys():
        raise contents.corrupt(f"thresholds for {', '.join(map(str, proven))[:60]}")
    return Trained(
        tuple(models),
        costs,
        before,
        checks,
        prices,
        {mode: _proven(contents, entry) for mode, entry in proven.items()},
        {mode: _curve(contents, mode) for mode in modes if contents.has(f"curve.{mode}")},
        _baseline(contents),
        _topic_words(contents, len(before.topics.log_shares)),
        _origin(contents),
        _hidden(contents, checks),
    )


def _named(name: str, number: int) -> str:
    """Of the first model's answers as files had it before there were others."""
    return f"{name}.{number}" if number else name


def _after(number: int) -> str:
    return f"after {number}" if number else "after"


def _check(contents: Contents, number: int, num_models: int) -> Check:
    values = tuple(map(float, contents.array(_named("check", number), (None,))))
    slope, offset, quality = *(values[:2] if len(values) > 2 else (0.0, 0.0)), values[2:]
    if not 1 <= len(quality) < num_models - number or not all(0 <= value <= 1 for value in quality):
        raise contents.corrupt(f"qualities {quality} of the models after number {number}")
    spread: tuple[float, ...] = ()
    if number or contents.has("spread"):  # of the first model's answers older files have none, and it is not needed
        spread = tuple(map(float, contents.array(_named("spread", number), (None,))))
        if not spread or min(spread) < 0 or max(spread) > 1:
            raise contents.corrupt(f"{_named('spread', number)} holds no probabilities")
    return Check(read_scorer(contents, _after(number), 1, reads_answers=True), Platt(slope, offset), quality, spread)


def _hidden(contents: Contents, checks: Mapping[int, Check]) -> HiddenSpace | None:
    forms = [check.scorer.forms["hidden"] for check in checks.values() if "hidden" in check.scorer.forms]
    if not contents.has("hidden.center") and not forms:
        return None
    center = contents.array("hidden.center", (None,))
    directions = contents.array("hidden.directions", (len(center), None))
    if len(forms) != 1 or "hidden" not in checks[0].scorer.forms or len(forms[0].center) != directions.shape[1]:
        raise contents.corrupt("hidden states do not fit the check of the first model's answers")
    return HiddenSpace(contents.value("hidden.model", str), center, directions)


def _costs(contents: Contents, num_models: int) -> tuple[float, ...]:
    costs = tuple(map(float, contents.array("costs", (num_models,))))
    try:
        checked_costs(costs)
    except InvalidRequest as error:
        raise contents.corrupt(str(error)) from None
    return costs


def _prices(contents: Contents, mode: str) -> tuple[float, ...]:
    found = contents.array(f"prices.{mode}", (None,))
    if len(found) < 2 or (np.diff(found) <= 0).any():
        raise contents.corrupt(f"prices.{mode} do not rise")
    return tuple(map(_infinite, found))


def _curve(contents: Contents, mode: str) -> tuple[Point, ...]:
    rows = contents.array(f"curve.{mode}", (None, len(_POINT)))
    return tuple(Point(_infinite(row[0]), *map(float, row[1:])) for row in rows)


def _baseline(contents: Contents) -> Baseline:
    num_rows = contents.value("base_rows", int)
    edges = {name: contents.array(f"drift.{name}.edges", (None,)) for name in _SIGNALS}
    shares = {name: contents.array(f"drift.{name}.shares", (len(edges[name]) + 1,)) for name in _SIGNALS}
    for name in _SIGNALS:
        is_sum = abs(shares[name].sum() - 1) < 1e-6 and (shares[name] >= 0).all()
        if num_rows < 1 or not is_sum or (np.diff(edges[name]) <= 0).any():
            raise contents.corrupt(f"drift.{name} is no distribution")
    return Baseline(num_rows, edges, shares)


def _origin(contents: Contents) -> Origin:
    unit = contents.value("unit", str)
    if unit not in get_args(Unit):
        raise contents.corrupt(f"unit is {unit[:40]!r}")
    trained, calibrated = (contents.array(f"rows.{name}", (None,), is_integer=True) for name in _ROWS)
    known: Unit = unit  # it is among them
    return Origin(trained, calibrated, known)


def _topic_words(contents: Contents, num_topics: int) -> tuple[tuple[str, ...], ...]:
    found = contents.value("topic_words", list)
    is_words = all(isinstance(topic, list) and all(isinstance(word, str) for word in topic) for topic in found)
    if len(found) != num_topics or not is_words:
        raise contents.corrupt(f"topic_words are not words of {num_topics} topics")
    return tuple(tuple(topic) for topic in found)


def _proven_document(found: Proven) -> dict[str, Any]:
    return {
        "goal": found.goal.kind,
        "target": found.goal.target,
        "delta": found.goal.delta,
        "price": None if found.price is None else float(_finite([found.price])[0]),
        "p_value": found.p_value,
        "quality": found.quality,
        "cost": found.cost,
        "num_rows": found.num_rows,
    }


def _proven(contents: Contents, entry: Any) -> Proven:
    names = ("target", "delta", "p_value", "quality", "cost", "num_rows")
    numbers: list[Any] = [entry.get(name) for name in names] if isinstance(entry, dict) else [None]
    price = entry.get("price") if isinstance(entry, dict) else None
    is_number = all(isinstance(value, int | float) and isfinite(value) for value in (*numbers, price or 0.0))
    if not is_number or entry.get("goal") not in ("quality", "share", "cost"):
        raise contents.corrupt(f"a threshold is {str(entry)[:60]}")
    target, delta, p_value, quality, cost, num_rows = map(float, numbers)
    try:
        goal = Goal(entry["goal"], target, delta)
    except InvalidRequest as error:
        raise contents.corrupt(str(error)) from None
    return Proven(goal, None if price is None else _infinite(price), p_value, quality, cost, int(num_rows))


def _finite(prices: Any) -> NDArray[np.float64]:
    return np.clip(np.array(prices, np.float64), -_MAX_PRICE, _MAX_PRICE)


def _infinite(price: float) -> float:
    return float(price) if abs(price) < _MAX_PRICE else inf if price > 0 else -inf
