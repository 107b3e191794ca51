"""One model of a local upstream: loaded when it is needed, asked through its engine's thread."""

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from farthing.errors import FarthingError
from farthing.upstreams.asked import Asked
from farthing.upstreams.body import unsupported
from farthing.upstreams.call import Call
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.local_config import LocalConfig
from farthing.upstreams.local_prompt import Encoded, encode
from farthing.upstreams.tool_format import ToolFormat, call_grammar

if TYPE_CHECKING:
    from farthing.models import Model
    from farthing.upstreams.engine_thread import EngineThread
    from farthing.upstreams.grammar import Grammar, Grammars

__all__ = ["LocalModel", "served_name"]

log = logging.getLogger("farthing.engine")


def served_name(model: str) -> str:
    """The name clients give: a path's last part, without .gguf; other names as they are."""
    path = Path(os.path.expanduser(model))
    if not path.exists():
        return model
    return path.stem if path.is_file() else path.resolve().name


class LocalModel:
    """Calls of `load` and `encode` take long and belong in a worker thread; they may come from several."""

    def __init__(self, source: str, config: LocalConfig) -> None:
        self.name = served_name(source)
        self._source, self._config = source, config
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._thread: EngineThread | None = None
        self._grammars: Grammars | None = None

    @property
    def thread(self) -> "EngineThread | None":
        """None before it is loaded."""
        return self._thread

    def load(self) -> "tuple[Model, EngineThread]":
        """Raises FarthingError where the file or the settings cannot be used."""
        from farthing.engine import Engine
        from farthing.models import load_model
        from farthing.upstreams.engine_thread import EngineThread

        with self._lock:
            if self._model is None or self._thread is None:
                model = self._model = load_model(self._source, weights=self._config.weights)
                config = self._config.engine(self.name)

                def make() -> Engine:
                    return Engine(model, config)

                self._thread = EngineThread(make(), make, config.max_num_seqs + self._config.max_waiting)
            return self._model, self._thread

    def encode(self, call: Call, asked: Asked) -> Encoded:
        """Raises UpstreamError."""
        try:
            model, _ = self.load()
        except FarthingError as error:
            log.error("model %s could not be loaded: %s", self.name, error)
            raise UpstreamError(
                f"model {self.name} could not be loaded; the server's log says why",
                status=503,
                code="model_unavailable",
            ) from None
        grammar, tools = self._form(model, asked)
        return encode(model, call, asked, grammar, tools)

    def _form(self, model: "Model", asked: Asked) -> "tuple[Grammar | None, ToolFormat | None]":
        """The grammar that the answers have to obey, and the form of calls in them. Raises UpstreamError."""
        template = model.tokenizer.chat_template or ""
        if "tool_calls" not in template and any(row.get("tool_calls") for row in asked.messages):
            unsupported("messages", "tool_calls are not known to this model's chat template")
        if asked.form is None and not asked.tools:
            return None, None
        from farthing.upstreams.grammar import Grammars, json_grammar

        with self._lock:
            grammars = self._grammars = self._grammars or Grammars(model)
        form = asked.form
        if not asked.tools:
            assert form is not None
            return grammars.compile(json_grammar(form.schema, form.param), form.param), None
        tools = ToolFormat.of(model.tokenizer)
        if tools is None:
            what = "this model's chat template has no tools, or writes their calls in a way that is not known here"
            unsupported("tools", f"{what}; leave them out, or ask another model")
        grammar = None
        if asked.forced or form is not None:
            is_forced = bool(asked.forced)
            schema = None if is_forced or form is None else form.schema or {"type": "object"}
            names = asked.forced or tuple(asked.tools)
            source = call_grammar(tools, asked.tools, names, is_parallel=asked.is_parallel, form=schema)
            grammar = grammars.compile(source, "tools")
        return grammar, tools

    async def aclose(self) -> None:
        if self._thread is not None:
            await self._thread.aclose()
