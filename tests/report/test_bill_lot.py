"""A lot beside a router: what it could have had for the same money."""

import pytest
from rich.console import Console

from farthing.ledger.feedback import RoutedScore
from farthing.report.bill import collect
from farthing.report.bill_html import to_html
from farthing.report.bill_json import to_json
from farthing.report.bill_lot import MAX_MODELS, lots
from farthing.report.bill_routes import lot_lines, print_routes
from tests.report.ledger_rows import MONTH, row

CHEAP, DEAR = 10_000_000, 110_000_000  # pico-dollars an answer


def given(num: int, model: str, cost_pico: int | None, route: str, **changes):
    return row(num, asked_model="auto", served_model=model, cost_pico=cost_pico, route=route, **changes)


def cascade(num_kept: int, num_escalated: int):
    """Escalated answers cost their discarded draft too."""
    rows = [given(i, "small", CHEAP, "cascade kept: p_right 0.91") for i in range(num_kept)]
    for i in range(num_kept, num_kept + num_escalated):
        rows.append(given(i, "small", CHEAP, "cascade escalated: p_right 0.2", status="discarded", id=f"d{i}"))
        rows.append(given(i, "large", DEAR, "cascade: next", attempt=1))
    return rows


def scores(small: float, large: float, num: int = 40):
    """Half of each model's a bit above, half a bit below."""
    return [
        RoutedScore("auto", model, mean + (0.1 if i % 2 else -0.1))
        for model, mean in (("small", small), ("large", large))
        for i in range(num)
    ]


def test_a_lot_spends_what_the_router_spent() -> None:
    [lot] = lots(collect(cascade(80, 20), MONTH).routers, [])
    assert [part.name for part in lot.models] == ["small", "large"]
    assert lot.num_answers == 100
    assert lot.mean_pico == (100 * CHEAP + 20 * DEAR) / 100
    assert lot.router_share == 0.2
    # 80 drafts kept, 20 discarded: the lot has 22 percent of large answers for it, since it pays for no drafts
    assert lot.share == pytest.approx((lot.mean_pico - CHEAP) / (DEAR - CHEAP)) == pytest.approx(0.22)
    assert lot.score is None
    assert "nobody has scored them" in lot_lines([lot])[0]


def test_scores_tell_which_was_better() -> None:
    [lot] = lots(collect(cascade(80, 20), MONTH).routers, scores(small=0.9, large=0.8))
    assert lot.score == pytest.approx(0.8 * 0.9 + 0.2 * 0.8)
    assert lot.lot_score == pytest.approx(0.78 * 0.9 + 0.22 * 0.8)
    assert 0 < lot.margin < 0.01
    assert "mean score 0.880; a lot for as much: 22.0%, about 0.878" in lot_lines([lot])[0]


def test_few_scores_say_nothing() -> None:
    [lot] = lots(collect(cascade(80, 20), MONTH).routers, scores(0.9, 0.8, num=9))
    assert lot.score is lot.lot_score is None
    assert "9 scores of one of its models, 10 are needed" in lot_lines([lot])[0]


def test_more_than_always_the_dearest() -> None:
    [lot] = lots(collect(cascade(1, 99), MONTH).routers, [])
    assert lot.share == 1
    assert "always asking it would have cost less" in lot_lines([lot])[0]


@pytest.mark.parametrize("cost_pico", [None, CHEAP])
def test_an_unknown_or_equal_price_has_no_lot(cost_pico: int | None) -> None:
    rows = [given(0, "small", CHEAP, "router: gap 0.1 > 0.2"), given(1, "large", cost_pico, "router: gap 0.3 > 0.2")]
    [lot] = lots(collect(rows, MONTH).routers, [])
    assert lot.share is None
    assert "prices are missing or equal" in lot_lines([lot])[0]


def test_a_fallback_is_no_router_and_one_model_no_choice() -> None:
    rows = [given(0, "small", CHEAP, "fallback: timeout"), given(1, "large", DEAR, "fallback: timeout")]
    assert lots(collect(rows, MONTH).routers, []) == []
    assert lots(collect([given(0, "small", CHEAP, "router: gap 0.1 > 0.2")], MONTH).routers, []) == []


def test_memory_is_bounded() -> None:
    rows = [given(i, f"m{i}", CHEAP + i, "router: gap") for i in range(100)]
    [lot] = lots(collect(rows, MONTH).routers, [])
    assert len(lot.models) == MAX_MODELS
    others = [row(i, asked_model=f"auto-{i}", route="router: gap") for i in range(300)]
    assert len(collect(others, MONTH).routers) == 200


def test_terminal_page_and_document_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    bill = collect(cascade(80, 20), MONTH, ["route"])
    bill.lots = lots(bill.routers, scores(0.9, 0.8))
    print_routes(bill, Console(width=200, force_terminal=False))
    assert "a lot for as much: 22.0%" in capsys.readouterr().out
    assert "a lot for as much: 22.0%" in to_html(bill, ["route"], [])
    [document] = to_json(bill)["lots"]
    assert document["share_of_dearest_by_lot"] == pytest.approx(0.22)
    assert [model["scores"] for model in document["models"]] == [40, 40]
