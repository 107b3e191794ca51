"""`farthing serve`: the server, with or without a configuration file."""

import asyncio
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._engine import ExpertsFolderOption
from farthing.cli._output import JsonOption, emit, note

if TYPE_CHECKING:
    from farthing.server.config_file import Config

EXAMPLE = "farthing serve --port 8000"


def serve(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A farthing.toml; none is read that is not named here."),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, metavar="N", help="0 is any free one. Default: 8000.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Serve this model of this machine; repeatable."),
    ] = None,
    experts_folder: ExpertsFolderOption = None,
    json_mode: JsonOption = False,
) -> None:
    """Serve OpenAI's and Anthropic's APIs, the embedded model where nothing else is asked for."""
    from farthing.server.running import serve as run

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = _settings(config, host, port, model, experts_folder)

    def announce(address: str) -> None:
        if json_mode:
            emit(True, {"url": address, "openai_base_url": f"{address}/v1"}, lambda: None)
            return
        note(f"farthing serves {address}/v1 (Anthropic's clients: {address}); Ctrl-C stops it")
        note(f"try: curl {address}/v1/models")

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run(settings, announce))


def _settings(
    path: Path | None, host: str | None, port: int | None, models: list[str] | None, experts_folder: Path | None
) -> "Config":
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
    if experts_folder is not None and not models:
        raise InvalidRequest("--experts-folder goes with --model; an upstream of the configuration file has its own")
    if not models:
        return settings
    if settings.upstreams:
        raise InvalidRequest("--model is for serving without upstreams; name models in the configuration file")
    table: dict[str, Any] = {"models": list(models)}
    if experts_folder is not None:
        table["experts_folder"] = str(experts_folder)
    return replace(settings, upstreams=(UpstreamEntry("local", "local", table),))


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
