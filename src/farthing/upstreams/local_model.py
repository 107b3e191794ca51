"""One model of a local upstream: loaded when it is needed, asked through its engine's thread."""

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from farthing.errors import FarthingError
from farthing.upstreams.asked import Asked
from farthing.upstreams.call import Call
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.local_config import LocalConfig
from farthing.upstreams.local_prompt import Prepared, prepare

if TYPE_CHECKING:
    from farthing.models import Model
    from farthing.upstreams.engine_thread import EngineThread

__all__ = ["LocalModel", "served_name"]

log = logging.getLogger("farthing.engine")


def served_name(model: str) -> str:
    """The name clients give: a path's last part, without .gguf; other names as they are."""
    path = Path(model).expanduser()
    if not path.exists():
        return model
    return path.stem if path.is_file() else path.resolve().name


class LocalModel:
    """Calls of `load` and `prepare` take long and belong in a worker thread; they may come from several."""

    def __init__(self, source: str, config: LocalConfig) -> None:
        self.name = served_name(source)
        self._source, self._config = source, config
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._thread: EngineThread | None = None

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

    def prepare(self, call: Call, asked: Asked) -> Prepared:
        """Raises UpstreamError."""
        try:
            model, thread = self.load()
        except FarthingError as error:
            log.error("model %s could not be loaded: %s", self.name, error)
            raise UpstreamError(
                f"model {self.name} could not be loaded; the server's log says why",
                status=503,
                code="model_unavailable",
            ) from None
        return prepare(model, thread.max_len, call, asked, None)

    async def aclose(self) -> None:
        if self._thread is not None:
            await self._thread.aclose()
