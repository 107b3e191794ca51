"""`farthing explain-cache`: where the prefix of each request stopped matching what had been sent before, and why."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import DEFAULT_MODEL, JsonOption, ModelOption, console, emit, note, visible
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.report.chat_requests import ChatRequest
    from farthing.report.prefix_breaks import Context, Explained, Explanation

EXAMPLE = "farthing explain-cache turn1.json turn2.json"

_MOST_SHOWN = 40  # characters on each side of the token that differs


def explain_cache(
    requests: Annotated[
        list[Path],
        typer.Argument(
            metavar="REQUEST.json...",
            help="OpenAI chat requests in the order they were sent: one as JSON, several as JSON Lines; - for stdin.",
            show_default=False,
        ),
    ],
    model: ModelOption = DEFAULT_MODEL,
    page_size: Annotated[
        int | None, typer.Option("--page-size", min=1, metavar="N", help="Tokens of a page (default: the engine's).")
    ] = None,
    json_mode: JsonOption = False,
) -> None:
    """Show where a series of requests lost its cached prefix, and the usual culprits: clocks, ids, reordered tools.

    Prompts go through MODEL's tokenizer and chat template and the engine's prefix tree, without a limit of memory; the
    requests' own "model" only keeps their caches apart. Answers are not in the files and are not counted. Tools are
    compared where the template writes them; for a template that knows none, in front of all messages, which is where
    hosted models put them.
    """
    bodies = _read(requests)

    from farthing.engine import EngineConfig
    from farthing.models.hub import find_model
    from farthing.models.tokenizer import load_tokenizer
    from farthing.report.prefix_breaks import explain

    tokenizer = load_tokenizer(find_model(model))
    explanation = explain(bodies, tokenizer, page_size or EngineConfig().page_size)
    for line in explanation.notes:
        note(f"farthing: {line}")
    emit(json_mode, _document(model, explanation), lambda: _print(explanation))


def _read(paths: list[Path]) -> list["ChatRequest"]:
    from farthing.report.chat_requests import parse_requests

    if sum(str(path) == "-" for path in paths) > 1:
        raise InvalidRequest("- is given more than once; stdin can be read once only")
    bodies = []
    for path in paths:
        is_stdin = str(path) == "-"
        if path.is_dir():
            raise InvalidRequest(f"{path}: a directory; give its files, in the order they were sent")
        content = sys.stdin.buffer.read() if is_stdin else path.read_bytes()
        bodies += parse_requests("stdin" if is_stdin else str(path), content)
    return bodies


def _document(model: str, explanation: "Explanation") -> dict[str, Any]:
    rows = explanation.requests
    return {
        "model": model,
        "page_size": explanation.page_size,
        "notes": explanation.notes,
        "num_tokens": sum(row.num_tokens for row in rows),
        "num_found": sum(row.num_found for row in rows),
        "requests": [_row(number, row) for number, row in enumerate(rows, 1)],
    }


def _row(number: int, row: "Explained") -> dict[str, Any]:
    def context(context: "Context | None") -> dict[str, str] | None:
        if context is None:
            return None
        token = context.token.decode("utf-8", "replace")
        return {"before": context.before, "token": token, "behind": context.behind}

    return {
        "number": number,
        "name": row.name,
        "num_tokens": row.num_tokens,
        "num_found": row.num_found,
        "num_common": row.num_common,
        "compared_with": None if row.compared_with is None else row.compared_with + 1,
        "culprit": dataclasses.asdict(row.culprit),
        "earlier": context(row.earlier),
        "now": context(row.now),
    }


def _print(explanation: "Explanation") -> None:
    out = console()
    rows = explanation.requests
    names = [visible(row.name) for row in rows]
    width = max(map(len, names))
    for number, (name, row) in enumerate(zip(names, rows, strict=True), 1):
        found = f"{row.num_tokens:>7,} tokens, {row.num_found:>7,} found"
        out.print(f"{number:>3}  {name:<{width}}  {found}   {row.culprit.kind}")
        if row.culprit.hint or row.culprit.kind == "template":
            _print_break(row)
    total, num_found = sum(row.num_tokens for row in rows), sum(row.num_found for row in rows)
    share = f"{100 * num_found / total:.1f} %"
    out.print(f"in all {total:,} tokens, {num_found:,} found ({share}), in pages of {explanation.page_size}")


def _print_break(row: "Explained") -> None:
    out = console()
    assert row.compared_with is not None
    assert row.earlier is not None
    assert row.now is not None
    place = f"as request {row.compared_with + 1} up to token {row.num_common:,}"
    out.print(f"       {place}: {visible(row.culprit.what)}")
    out.print(f"         earlier  {_shown(row.earlier)}")
    out.print(f"         now      {_shown(row.now)}")
    if row.culprit.hint:
        out.print(f"       -> {row.culprit.hint}")


def _shown(context: "Context") -> str:
    before = visible(context.before)[-_MOST_SHOWN:]
    behind = visible(context.behind)[:_MOST_SHOWN]
    return f"…{before}[{visible(context.token) or 'end'}]{behind}…"
