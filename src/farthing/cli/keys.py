"""farthing keys: who may ask a server, and how much they may use."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import JsonOption, console, emit
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.ledger.budget import Budget, Kind, Scope
    from farthing.ledger.database import Database
    from farthing.ledger.key import Key
    from farthing.ledger.reservation import Room

EXAMPLE = "farthing keys create --name alice --budget 5usd/month --limit 60requests/minute"

app = typer.Typer(help="Keys of a server's clients, and budgets. Opens the ledger that the server uses; --json.")
budget_app = typer.Typer(help="Budgets of keys, tags, projects and of everybody together.")
app.add_typer(budget_app, name="budget")

LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", metavar="URL", help="sqlite:///FILE or postgresql://…; default: the user's data folder."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A farthing.toml whose [ledger] names the ledger.")
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="AMOUNT", help="5usd/month, 100000tokens/day, … (also hour, total); repeatable."),
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="RATE", help="60requests/minute, 10000tokens/minute, …; repeatable."),
]


@app.command("create")
def create(
    name: Annotated[str, typer.Option("--name", help="Whose it is, for people.")],
    project: Annotated[str | None, typer.Option(help="The project that its calls belong to.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="SPAN", help="How long it holds: 30d, 12h, 90m.")] = None,
    budget: BudgetOption = None,
    limit: LimitOption = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="The only models it may ask for.")] = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key. Its secret is shown once, now; the ledger keeps only a hash of it."""
    from farthing.ledger.directory import touch
    from farthing.ledger.key import insert_key

    expires_us = None if expires is None else _expires_us(expires)
    names = [] if models is None else [model.strip() for model in models.split(",") if model.strip()]
    _check_text("--name", name)
    if project is not None:
        _check_text("--project", project)
    with _transaction(ledger, config) as database:
        key, secret = insert_key(database, name, project, names, expires_us)
        touch(database)
        budgets = _add(database, "key", key.id, budget or [], limit or [])

    def render() -> None:
        console().print(f"key     {key.id} ({key.name})")
        console().print(f"secret  {secret}")
        for added in budgets:
            console().print(f"{added.kind:<7} {added.title} ({added.id})")
        console().print("The secret is not shown again.")

    document = _key_document(key) | {"secret": secret, "budgets": [_budget_document(added) for added in budgets]}
    emit(json, document, render)


@app.command("list")
def list_(ledger: LedgerOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """All keys, revoked ones too."""
    from farthing.ledger.key import list_keys

    with _transaction(ledger, config) as database:
        keys = list_keys(database)

    def render() -> None:
        for key in keys:
            state = "revoked" if key.is_revoked else f"expires {_day(key.expires_us)}" if key.expires_us else "valid"
            of = f" of {key.project}" if key.project else ""
            console().print(f"{key.id}  {state:<18}  {key.name}{of}{'  ' + ','.join(key.models) if key.models else ''}")
        if not keys:
            console().print("no keys; make one with: farthing keys create --name NAME")

    emit(json, {"keys": [_key_document(key) for key in keys]}, render)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As farthing keys list shows it.")],
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse a key from now on; running servers notice within a few seconds."""
    from farthing.ledger.directory import revoke_key

    with _transaction(ledger, config) as database:
        revoke_key(database, key_id)
    emit(json, {"revoked": key_id}, lambda: console().print(f"{key_id} is revoked"))


@budget_app.command("add")
def budget_add(
    amount: Annotated[
        list[str] | None, typer.Argument(metavar="[AMOUNT]...", help="5usd/month, 1000tokens/day")
    ] = None,
    limit: LimitOption = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="For one key.")] = None,
    tag: Annotated[str | None, typer.Option(help="For all calls with a tag.")] = None,
    project: Annotated[str | None, typer.Option(help="For all calls of a project.")] = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Add budgets or limits for a key, a tag, a project, or (none of these) for everybody together.

    A budget counts what is used from now on.
    """
    scopes: list[tuple[Scope, str | None]] = [("key", key), ("tag", tag), ("project", project)]
    given = [(scope, text) for scope, text in scopes if text is not None]
    if len(given) > 1:
        raise InvalidRequest(f"give one of --key, --tag, --project; given: {', '.join(scope for scope, _ in given)}")
    if not amount and not limit:
        raise InvalidRequest("nothing to add; write it like: farthing keys budget add 5usd/month --tag team-a")
    scope, subject = given[0] if given else ("global", "")
    if scope != "global":
        _check_text(f"--{scope}", subject)
    with _transaction(ledger, config) as database:
        if scope == "key":
            _check_key_exists(database, subject)
        budgets = _add(database, scope, subject, amount or [], limit or [])
    document = {"budgets": [_budget_document(added) for added in budgets]}
    lines = "\n".join(f"{added.id}  {added.title}" for added in budgets)
    emit(json, document, lambda: console().print(lines))


@budget_app.command("list")
def budget_list(ledger: LedgerOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """All budgets and limits, with what is used and reserved now."""
    from farthing.ledger.directory import list_budgets
    from farthing.ledger.reservation import rooms_of

    with _transaction(ledger, config) as database:
        rooms = [room for budget in list_budgets(database) for room in rooms_of(database, [budget])]

    def render() -> None:
        for room in rooms:
            words = room.budget.words
            reserved = f", {words(room.reserved)} reserved" if room.reserved else ""
            console().print(f"{room.budget.id}  {room.budget.title}: {words(room.used)} used{reserved}")
        if not rooms:
            console().print("no budgets; add one with: farthing keys budget add 5usd/month --tag team-a")

    emit(json, {"budgets": [_room_document(room) for room in rooms]}, render)


@budget_app.command("remove")
def budget_remove(
    budget_id: Annotated[str, typer.Argument(metavar="ID", help="As farthing keys budget list shows it.")],
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Take a budget or limit away."""
    from farthing.ledger.directory import remove_budget

    with _transaction(ledger, config) as database:
        remove_budget(database, budget_id)
    emit(json, {"removed": budget_id}, lambda: console().print(f"{budget_id} is removed"))


@contextmanager
def _transaction(url: str | None, config: Path | None) -> "Iterator[Database]":
    from farthing.ledger.opening import open_database, transaction

    database = open_database(_ledger_config(url, config))
    try:
        with transaction(database):
            yield database
    finally:
        database.close()


def _ledger_config(url: str | None, config: Path | None) -> Any:
    import tomllib

    from farthing.ledger.config import LedgerConfig

    if url is not None and config is not None:
        raise InvalidRequest("--ledger and --config both name a ledger; give one")
    if url is not None:
        return LedgerConfig(url=url)
    if config is None:
        return LedgerConfig()
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8")).get("ledger", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{config}: {error}") from None
    if not isinstance(table, dict):
        raise InvalidRequest(f"{config}: ledger is {table!r}; it must be a table: [ledger]")
    return LedgerConfig.from_table(table)


def _add(database: "Database", scope: "Scope", subject: str, budgets: list[str], limits: list[str]) -> "list[Budget]":
    from farthing.ledger.budget import parse_amount
    from farthing.ledger.directory import add_budget

    wanted: list[tuple[Kind, str]] = [("budget", text) for text in budgets]
    wanted += [("limit", text) for text in limits]
    return [add_budget(database, kind, scope, subject, *parse_amount(text)) for kind, text in wanted]


def _check_key_exists(database: "Database", key_id: str) -> None:
    from farthing.ledger.key import list_keys

    if all(key.id != key_id for key in list_keys(database)):
        raise InvalidRequest(f"there is no key {key_id!r}; see: farthing keys list")


def _check_text(option: str, text: str) -> None:
    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise InvalidRequest(f"{option} is {text[:40]!r}; give 1 to 200 printable characters")


def _expires_us(text: str) -> int:
    import re

    from farthing.ledger.ids import now_us

    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if found is None or int(found[1]) == 0:
        raise InvalidRequest(f"--expires is {text!r}; write it like 30d, 12h or 90m")
    return now_us() + int(found[1]) * {"m": 60, "h": 3600, "d": 86_400}[found[2]] * 1_000_000


def _day(at_us: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%d}"


def _key_document(key: "Key") -> dict[str, Any]:
    return asdict(key)


def _budget_document(budget: "Budget") -> dict[str, Any]:
    return asdict(budget)


def _room_document(room: "Room") -> dict[str, Any]:
    return _budget_document(room.budget) | {"window_us": room.window_us, "used": room.used, "reserved": room.reserved}
