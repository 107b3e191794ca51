"""farthing count: how many tokens a text has, and which."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import DEFAULT_MODEL, JsonOption, console, emit, visible, warn
from farthing.errors import InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from farthing.economics.count import Count

EXAMPLE = 'farthing count "Take care of the pence" --model gpt-4o --show'

COLOURS = ("on blue", "on magenta", "on dark_green", "on dark_orange3", "on grey37")


def count(
    text: Annotated[str | None, typer.Argument(help="The text, or - for stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="Count a file's text.")] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A pulled model, GGUF file or Hugging Face folder; a hosted model; o200k_base or cl100k_base.",
        ),
    ] = DEFAULT_MODEL,
    show: Annotated[bool, typer.Option("--show", help="Print the tokens themselves.")] = False,
    json: JsonOption = False,
) -> None:
    """Count the tokens of a text, offline.

    Exact for models that run here and for OpenAI's o200k and cl100k encodings; an estimate, with its error band, for
    models whose tokenizer is private. Special tokens in the text count as ordinary text.
    """
    result, tokens = _count(_text(text, file), model)
    if show and result.method == "estimate":
        raise InvalidRequest(f"--show needs an exact tokenizer, and that of {model} is not here; leave out --show")
    document: dict[str, Any] = {"model": model} | asdict(result)
    document["characters_per_token"] = round(result.characters_per_token, 4) if result.tokens else None
    if show:
        document["pieces"] = [{"id": id, "text": piece.decode("utf-8", "replace")} for id, piece in tokens]

    def render() -> None:
        if show:
            _print_tokens([piece for _, piece in tokens])
        ratio = f", {result.characters_per_token:.2f} characters per token" if result.tokens else ""
        number = f"{result.tokens:,} token{'' if result.tokens == 1 else 's'}"
        if result.method == "estimate":
            number = f"about {number} ({result.low:,} to {result.high:,})"
        typer.echo(f"{number}, {result.characters:,} characters{ratio}")
        typer.echo(f"{result.method}: {result.basis}")

    emit(json, document, render)


def _text(text: str | None, file: Path | None) -> str:
    if text is not None and file is not None:
        raise InvalidRequest("give a text or --file, not both")
    if file is not None:
        return _decode(file.read_bytes(), str(file))
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise InvalidRequest("nothing to count: give a text in quotes, --file FILE, or - for stdin")
    return _decode(sys.stdin.buffer.read(), "stdin")


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        warn(f"{where} is not UTF-8 at byte {error.start:,}; bytes that are not count as U+FFFD")
        return content.decode("utf-8", "replace")


def _count(text: str, model: str) -> tuple["Count", list[tuple[int, bytes]]]:
    """The count, and the tokens as (id, bytes): of the model's own tokenizer if it is here, else of OpenAI's."""
    from farthing.economics.count import ENCODINGS, count_for_model, tokens_of
    from farthing.models.hub import known_models, pulled_models

    known = tuple(entry.name for entry in known_models())
    if model not in ENCODINGS:
        try:
            return _count_locally(text, model)
        except ModelNotFound:
            if model in known or model.startswith("hf:") or model.endswith(".gguf"):
                raise
    result = count_for_model(text, model, (*known, *pulled_models()))
    return result, tokens_of(text, result.encoding)


def _count_locally(text: str, model: str) -> tuple["Count", list[tuple[int, bytes]]]:
    from farthing.economics.count import Count
    from farthing.models.hub import find_model

    path = find_model(model)

    from farthing.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    ids = tokenizer.encode(text, add_bos=False)
    basis = f"the model's own tokenizer ({path.name})"
    number = len(ids)
    return (
        Count(number, len(text), "exact", path.name, number, number, basis),
        [(id, tokenizer.token_bytes(id)) for id in ids],
    )


def _print_tokens(pieces: list[bytes]) -> None:
    """Tokens in turning colours; with a bar between them where there is no colour."""
    from rich.text import Text

    screen = console()
    if screen.is_terminal and not screen.no_color:
        line = Text()
        for number, piece in enumerate(pieces):
            line.append(visible(piece), COLOURS[number % len(COLOURS)])
        screen.print(line)
    else:
        typer.echo("|".join(visible(piece) for piece in pieces))
