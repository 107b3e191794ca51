"""`farthing serve`: the server, with or without a configuration file."""

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import JsonOption, emit, note

if TYPE_CHECKING:
    from farthing.server.config_file import Config

EXAMPLE = "farthing serve --port 8000"


def serve(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A farthing.toml; none is read that is not named here."),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Default: the file's, else 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, metavar="N", help="0: any free one. Default: the file's, else 8000."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A pulled model's name, a GGUF file or a folder, run on this machine; repeatable.",
        ),
    ] = None,
    json_mode: JsonOption = False,
) -> None:
    """Serve OpenAI's and Anthropic's APIs, the embedded model where nothing else is asked for."""
    with _leaves_at_sigterm():
        from farthing.server.running import serve as run

        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        settings = _settings(config, host, port, model)

        def announce(address: str) -> None:
            if json_mode:
                emit(True, {"url": address, "openai_base_url": f"{address}/v1"}, lambda: None)
                return
            note(f"farthing serves {address}/v1 (Anthropic's clients: {address}); Ctrl-C stops it")
            key = ' -H "authorization: Bearer KEY"' if settings.server.require_keys else ""
            note(f"try: curl {address}/v1/models{key}")

        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run(settings, announce))


@contextmanager
def _leaves_at_sigterm() -> Iterator[None]:
    """From the first moment, imports and all: as the first process of a container we would otherwise not notice it.
    The server listens for itself once it can."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _settings(path: Path | None, host: str | None, port: int | None, models: list[str] | None) -> "Config":
    """The file's configuration, or the defaults, with what the options say put over it."""
    from farthing.errors import InvalidRequest
    from farthing.server.config import UpstreamEntry
    from farthing.server.config_file import Config, read_config

    if path is None:
        if Path("farthing.toml").exists():
            note("farthing.toml lies here and is not read; --config farthing.toml reads it")
        settings = Config()
    else:
        settings = read_config(path)
    given: dict[str, Any] = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = replace(settings, server=replace(settings.server, **given))
    if not models:
        return settings
    if settings.upstreams:
        raise InvalidRequest("--model is for serving without upstreams; name models in the configuration file")
    return replace(settings, upstreams=(UpstreamEntry("local", "local", {"models": list(models)}),))


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
