"""farthing bill: a ledger from the outside, every form it is shown in, and what is refused in one line."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.economics.charge import pico
from farthing.ledger.config import LedgerConfig
from farthing.ledger.opening import open_database
from farthing.ledger.records import COLUMNS, row_values
from farthing.ledger.row import Row
from farthing.report.bill_period import moment_us
from tests.report.ledger_rows import hit, local, row, unpriced
from tests.report.test_bill_import import SPEND

MONTH = ["--month", "2026-11"]


@pytest.fixture(autouse=True)
def nothing_of_the_person_testing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def write(path: Path, rows: Sequence[Row]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{path}"
    database = open_database(LedgerConfig(url=url))
    marks = ", ".join("?" * len(COLUMNS))
    database.begin()
    for one in rows:
        database.execute(f"INSERT INTO attempts ({', '.join(COLUMNS)}) VALUES ({marks})", row_values(one))
    database.commit()
    database.close()
    return url


@pytest.fixture
def url(tmp_path: Path) -> str:
    rows = [row(1), hit(2), local(3), unpriced(4), row(5, served_model='=cmd|"x"', key_id=None, tags=("a", "b"))]
    return write(tmp_path / "ledger.db", [*rows, row(6, started_us=moment_us(datetime(2026, 10, 31, tzinfo=UTC)))])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["bill", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["bill", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_bill_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--ledger", url, *MONTH, "--by", "model,tag")
    assert found["total"]["cost_pico"] == 90_000_000 + 50_000_000 + 90_000_000
    assert found["total"]["cost_usd"] == "0.00023"
    assert found["total"]["rows_unpriced"] == 1
    assert set(found["by"]) == {"model", "tag"}
    assert {group["name"] for group in found["by"]["tag"]} == {"web", "a", "b"}
    assert sum(lever["saving_pico"] for lever in found["levers"]) == found["total"]["saving_pico"]


def test_the_bill_for_people(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bill", "--ledger", url, *MONTH]) == 0
    said = capsys.readouterr().out
    assert "Spent     $0.000230 ($0.00023), plus 1 rows without a price" in said
    assert "response cache" in said
    assert "a row with several tags counts under each" in said
    assert "not known" in said


def test_a_period_ends_before_its_end(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--ledger", url, "--since", "2026-10-31", "--until", "2026-10-31T00:00:01")
    assert found["total"]["rows"] == 1
    assert "no row" in refused(capsys, "--ledger", url, "--since", "2026-10-30", "--until", "2026-10-31")


def test_this_month_until_now_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    rows = [row(num, started_us=moment_us(now - timedelta(days=num))) for num in range(40)]
    write(tmp_path / "data" / "farthing" / "ledger.db", rows)  # where serve has it
    found = document(capsys)
    assert found["total"]["rows"] == now.day
    assert found["forecast"]["days"] == 28  # days of the month before teach it too
    assert found["forecast"]["low_pico"] >= found["forecast"]["spent_pico"] == found["total"]["cost_pico"]


def test_the_page(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "bill.html"
    page.write_text("old")
    page.chmod(0o640)
    assert main(["bill", "--ledger", url, *MONTH, "--html", str(page)]) == 0
    assert "page: " in capsys.readouterr().err
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert page.stat().st_mode & 0o777 == 0o640
    assert [found.name for found in tmp_path.glob(".*")] == []


def test_the_export_sums_to_the_ledger(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = document(capsys, "--ledger", url, *MONTH)["total"]["cost_pico"]
    assert main(["bill", "--ledger", url, *MONTH, "--export", "-"]) == 0
    captured = capsys.readouterr()
    read = list(csv.DictReader(io.StringIO(captured.out, newline="")))
    assert sum(pico(Decimal(line["BilledCost"])) for line in read) == total
    assert "left out: 1 attempts without a price" in captured.err
    assert any(line["x_Model"] == '\'=cmd|"x"' for line in read)
    assert main(["bill", "--ledger", url, *MONTH, "--export", str(tmp_path / "focus.csv")]) == 0
    assert (tmp_path / "focus.csv").read_bytes().decode().replace("\r\n", "\n") == captured.out.replace("\r\n", "\n")


def test_a_ledger_named_in_farthing_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "there" / "books.db", [row(1)])
    toml = tmp_path / "there" / "farthing.toml"
    toml.write_text(f'[server]\nport = 1\n[ledger]\nurl = "sqlite:///{tmp_path}/there/books.db"\n')
    assert document(capsys, "--config", str(toml), *MONTH)["total"]["rows"] == 1
    toml.write_text("[ledger\n")
    assert "not TOML" in refused(capsys, "--config", str(toml))
    toml.write_text('[ledger]\nuri = "x"\n')
    assert "unknown key 'uri'" in refused(capsys, "--config", str(toml))


def test_what_a_token_reads_of_a_local_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mixture of experts that the configuration serves; hosted models and those that are gone are left out."""
    olmoe = Path(__file__).parents[1] / "golden" / "olmoe"
    rows = [row(1), local(2, served_model="olmoe"), local(3, served_model="gone")]
    write(tmp_path / "books.db", rows)
    toml = tmp_path / "farthing.toml"
    table = f'[[upstream]]\nname = "here"\nkind = "local"\nmodels = ["{olmoe}"]\n'
    toml.write_text(f'[ledger]\nurl = "sqlite:///{tmp_path}/books.db"\n{table}')
    [found] = document(capsys, "--config", str(toml), *MONTH)["local_models"]
    assert (found["name"], found["num_experts"], found["num_experts_per_token"]) == ("olmoe", 7, 3)
    assert found["bytes_per_token"] < found["num_bytes"]
    assert main(["bill", "--config", str(toml), *MONTH]) == 0
    assert "On this machine: olmoe, 59.5 k parameters, 34.9 k of them active" in capsys.readouterr().out


def test_what_a_classifier_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(__file__).parents[1] / "golden" / "classifier_llama"
    write(tmp_path / "books.db", [local(2, served_model=model.name)])
    toml = tmp_path / "farthing.toml"
    table = f'[[upstream]]\nname = "here"\nkind = "classifier"\nmodels = ["{model}"]\n'
    toml.write_text(f'[ledger]\nurl = "sqlite:///{tmp_path}/books.db"\n{table}')
    [found] = document(capsys, "--config", str(toml), *MONTH)["local_models"]
    assert found["name"] == model.name
    assert 0 < found["bytes_per_token"] < found["num_bytes"]


def test_budgets_stand_beside_the_bill(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--ledger", url, "--name", "anna", "--budget", "5usd/month", "--json"]) == 0
    key = json.loads(capsys.readouterr().out)["id"]
    found = document(capsys, "--ledger", url, *MONTH)
    [budget] = found["budgets"]
    assert (budget["scope"], budget["subject"], budget["unit"], budget["left"]) == ("key", key, "pico_usd", 5 * 10**12)
    assert main(["bill", "--ledger", url, *MONTH]) == 0
    assert f"key anna ({key})  5 USD per month" in capsys.readouterr().out


def test_what_is_refused(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no ledger" in refused(capsys, "--ledger", f"sqlite:///{tmp_path}/none.db")
    assert "there is no ledger" in refused(capsys)
    assert "ledger url is" in refused(capsys, "--ledger", "mysql://x")
    assert "is not before" in refused(capsys, "--ledger", url, "--since", "2026-11-05", "--until", "2026-11-01")
    assert "write a day like" in refused(capsys, "--ledger", url, "--since", "soon")
    assert "--by 'colour' is not known" in refused(capsys, "--ledger", url, "--by", "model,colour")
    assert "cannot be written" in refused(capsys, "--ledger", url, *MONTH, "--html", str(tmp_path / "no" / "x.html"))
    assert "cannot be written" in refused(capsys, "--ledger", url, *MONTH, "--export", str(tmp_path / "no" / "x.csv"))
    assert "give one of them" in refused(capsys, "--ledger", url, "--config", "x")
    assert "--models belongs to --import" in refused(capsys, "--ledger", url, "--models", "gpt-5-nano")
    assert "--export writes the ledger's rows" in refused(capsys, "--ledger", url, "--export", "-", "--json")


def test_a_page_that_cannot_be_made_leaves_the_old_one(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "bill.html"
    page.write_text("old")
    refused(capsys, "--ledger", url, "--month", "2020-01", "--html", str(page))
    assert page.read_text() == "old"
    assert [found.name for found in tmp_path.glob(".*")] == []


def test_an_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "logs.jsonl"
    logs.write_text(json.dumps(SPEND) + "\nbroken\n")
    given = ["--import", str(logs), "--models", "gpt-4.1-nano,claude-opus-5-5"]
    assert main(["bill", *given, "--usd-per-mtok-in", "0.5", "--usd-per-mtok-out", "2"]) == 0
    captured = capsys.readouterr()
    assert "LiteLLM's spend logs: 2 rows, 1 requests, 2026-11-20 to 2026-11-20" in captured.out
    assert "gpt-4.1-nano" in captured.out
    assert "this machine" in captured.out
    assert "not read: logs.jsonl, line 2: not valid JSON" in captured.err
    found = document(capsys, *given)
    assert [target["name"] for target in found["elsewhere"]] == ["gpt-4.1-nano", "claude-opus-5-5"]
    assert found["total"]["spend_usd"] == "0.00009"


def test_an_import_beside_this_machines_own_rate(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "logs.jsonl"
    logs.write_text(json.dumps(SPEND) + "\n")
    found = document(capsys, "--import", str(logs), "--ledger", url)
    assert found["elsewhere"][-1]["source"] == "measured over 1 local rows of the ledger"
    assert found["elsewhere"][-1]["cost_usd"] == "0.00008"  # 1,000 at $0.05 and 100 at $0.30 per million


def test_imports_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "logs.jsonl"
    logs.write_text(json.dumps(SPEND) + "\n")
    assert "cannot be read" in refused(capsys, "--import", str(tmp_path / "none"))
    assert "unknown model 'gpt-5-nanoo'" in refused(capsys, "--import", str(logs), "--models", "gpt-5-nanoo")
    assert "belong together" in refused(capsys, "--import", str(logs), "--usd-per-mtok-in", "1")
    assert "leave out --html" in refused(capsys, "--import", str(logs), "--month", "2026-11")
