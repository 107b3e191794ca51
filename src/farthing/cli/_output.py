"""What all commands share: one JSON document on stdout, messages and progress on stderr, options of the same name."""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "DEFAULT_MODEL",
    "JsonOption",
    "ModelOption",
    "ThreadsOption",
    "UsdPerHourOption",
    "WeightsOption",
    "console",
    "emit",
    "note",
    "parse_bytes",
    "parse_decimal",
    "progress",
    "read_text",
    "visible",
    "warn",
]

DEFAULT_MODEL = "smollm2-135m-instruct"


def parse_decimal(text: str | Decimal) -> Decimal:
    """A finite decimal number of an option, exactly as written (never through float)."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number; write it like 0.0765") from None
    if not number.is_finite():
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


def parse_bytes(text: str | int) -> int:
    """A number of bytes: 4GiB, 512MiB, 1.5GB, 65536."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i?)B?|B)?", str(text), re.IGNORECASE)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a number of bytes; write it like 4GiB, 500MB or 65536")
    number, prefix, is_binary = found.groups()
    power = " KMGT".index(prefix.upper()) if prefix else 0
    return int(Decimal(number) * (1024 if is_binary else 1000) ** power)


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; messages go to stderr.")]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="A pulled model's name, a GGUF file or a Hugging Face folder."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=256, metavar="N", help="Threads of the engine (default: all cores)."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="FORMAT", help="Re-block the weights at load: f32, q8_0, q4_1, q3, …"),
]
UsdPerHourOption = Annotated[
    Decimal,
    typer.Option(
        "--usd-per-hour",
        parser=parse_decimal,
        metavar="USD",
        help="Price of this machine per hour, in US dollars.",
    ),
]


def emit(json_mode: bool, document: Mapping[str, Any], render: Callable[[], None]) -> None:
    """Print the result once: `document` as one JSON document in JSON mode, otherwise whatever `render()` prints.

    Decimals become strings (exact), dataclasses objects, paths strings; a float that is not finite becomes null.
    """
    if json_mode:
        sys.stdout.write(json.dumps(_plain(document), ensure_ascii=False, allow_nan=False, indent=2) + "\n")
    else:
        render()
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate is no text that stdout could carry
    return value


def note(message: str) -> None:
    """A message for people, on stderr."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    print(f"farthing: warning: {message}", file=sys.stderr, flush=True)


def console() -> "Console":
    """A rich console on stdout; plain when stdout is not a terminal or NO_COLOR is set. Markup and emoji are off."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def visible(piece: bytes | str) -> str:
    """A text, or a token's bytes; line breaks, control characters and parts of a character as escapes."""
    if isinstance(piece, bytes):
        try:
            return visible(piece.decode())
        except UnicodeDecodeError:
            return "<" + piece.hex(" ") + ">"
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in piece)


@contextmanager
def progress() -> Iterator["Progress"]:
    """A progress bar on stderr (`add_task`, `update`); silent when stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    stderr = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True) as bar:
        yield bar


def read_text(path: str) -> bytes:
    """The bytes behind --text. Raises InvalidRequest where there are none."""
    try:
        given = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"--text {path}: cannot be read ({error.strerror}); give a text file") from None
    if not given:
        raise InvalidRequest(f"--text {path}: empty; give a text of at least one window")
    return given
