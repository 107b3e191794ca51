"""The command `farthing`: one file per command, this file the door.

A command `x-y` lives in `cli/x_y.py`, which exports a function `x_y` (for eval: a typer app `app`) and `EXAMPLE`, one
line shown under its --help. These files import typer, errors and `_output` at the top and nothing heavy: numpy,
tokenizers, prices and the engine are imported inside the command, so that `farthing --help` answers at once.

Exit codes: 0 done · 1 a FarthingError or an operating-system error, one line on stderr · 2 wrong usage, one line with
the nearest names · 70 our own bug (FARTHING_DEBUG=1 shows the traceback) · 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from farthing import __version__
from farthing.errors import FarthingError

__all__ = ["app", "main"]

COMMANDS = (
    "pull",
    "generate",
    "chat",
    "count",
    "price",
    "quantize",
    "eval",
    "waterfall",
    "bench",
    "classify",
    "explain-cache",
    "replay",
    "serve",
    "keys",
    "bill",
    "compare",
    "route",
    "distill",
    "learn",
)

app = typer.Typer(
    name="farthing",
    help="Answers language-model requests for the least money, and shows the bill.",
    epilog='\b\nExample:\n  farthing generate "Say hello"',
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"farthing {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _farthing(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - the callback does the work
        bool, typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _python_name(command: str) -> str:
    return command.replace("-", "_")


def _register() -> None:
    for name in COMMANDS:
        module = importlib.import_module(f"farthing.cli.{_python_name(name)}")
        epilog = f"\b\nExample:\n  {module.EXAMPLE}"  # \b: do not wrap
        if isinstance(getattr(module, "app", None), typer.Typer):
            app.add_typer(module.app, name=name, epilog=epilog)
        else:
            app.command(name, epilog=epilog)(getattr(module, _python_name(name)))


_register()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see the top of this file). Never raises for a user's mistake."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        result = app(given, prog_name="farthing", standalone_mode=False)
        sys.stdout.flush()  # here, so that a full disk or a closed pipe is told in the exit code
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return 130
    except typer.TyperException as error:
        return _usage_error(error)
    except typer.Abort:
        return 130
    except FarthingError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        # The reader has gone: nothing to say to it, but what was asked was not delivered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get("FARTHING_DEBUG"):
            raise
        hint = "this is a bug in farthing; FARTHING_DEBUG=1 shows the traceback"
        return _fail(f"{type(error).__name__}: {error} ({hint})", 70)


def _fail(message: str, code: int) -> int:
    print(f"farthing: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "farthing"
    return _fail(f"{error.format_message().rstrip('. ')}. See: {path} --help", 2)
