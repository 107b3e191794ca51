"""The local engine as an upstream: one model or several, each with an engine of its own.

Importing this module is cheap: engines, tokenizers and NumPy are imported when a model is loaded.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest
from farthing.upstreams.asked import Asked
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.chat_request import read_chat
from farthing.upstreams.completion_request import read_completion
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.job import Job
from farthing.upstreams.local_answer import Answer
from farthing.upstreams.local_config import LocalConfig
from farthing.upstreams.local_model import LocalModel
from farthing.upstreams.local_prompt import Encoded, Prepared, prepare

if TYPE_CHECKING:
    from farthing.engine import EngineLoad, EngineStats
    from farthing.upstreams.engine_thread import EngineThread

__all__ = ["LocalUpstream"]

MAX_KEPT = 64  # calls that were measured by max_usage and not yet answered; beyond, they are encoded again
PROVIDER = "local"


class LocalUpstream:
    """Raises InvalidRequest for settings that cannot be."""

    def __init__(self, name: str, config: LocalConfig | None = None) -> None:
        self.name = name
        self.config = config or LocalConfig()
        self._models: dict[str, LocalModel] = {}
        for source in self.config.models:
            model = LocalModel(source, self.config)
            if model.name in self._models:
                raise InvalidRequest(f"models has two that are called {model.name!r}; rename a file or folder")
            self._models[model.name] = model
        # Two: a long prompt does not hold up the short ones, and the engine's threads keep most of the machine.
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="farthing-prompts")
        self._kept: OrderedDict[str, tuple[Call, Encoded]] = OrderedDict()

    @classmethod
    def from_config(cls, name: str, table: Mapping[str, Any], host: HostCost) -> "LocalUpstream":  # noqa: ARG003
        """From a table of farthing.toml. Raises InvalidRequest for what it does not allow."""
        return cls(name, LocalConfig.from_table(table))

    async def start(self) -> None:
        """Load the models, where `preload` says so. Raises FarthingError where one cannot be."""
        if self.config.preload:
            for model in self._models.values():
                await asyncio.get_running_loop().run_in_executor(self._workers, model.load)

    async def models(self) -> list[str]:
        return list(self._models)

    def engine_figures(self) -> "dict[str, tuple[EngineLoad, EngineStats]]":
        """For metrics: what each loaded model's engine is at, and has done."""
        threads = {name: model.thread for name, model in self._models.items()}
        return {name: (thread.load(), thread.stats()) for name, thread in threads.items() if thread is not None}

    def max_usage(self, call: Call) -> Usage:
        """The prompt's exact tokens, and the answer's most. Loads the model and encodes the prompt: milliseconds for
        long ones, so call it in a worker thread; `stream` finds its work again."""
        encoded = self._encode(call)
        self._kept[call.id] = (call, encoded)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return self._prepare(encoded, call).most

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        tally.upstream, tally.provider, tally.is_local = self.name, PROVIDER, True
        tally.usage_source, tally.model = "engine", call.model
        prepared = self._prepare(await self._encoded(call), call)
        answer = Answer(prepared)
        job = Job(prepared.requests, prepared.encoded.asked.n, call.allowance, answer.shown, tally)
        thread = self._thread(call)
        thread.submit(job)
        try:
            while pieces := await job.pieces():
                for piece in pieces:
                    if (chunk := answer.chunk(piece)) is not None:
                        tally.is_cut |= prepared.is_capped and answer.is_at_length
                        yield chunk
        finally:
            await thread.end(job)

    async def aclose(self) -> None:
        """A model that is being loaded cannot be stopped: it is waited for, so that it can be let go of too."""
        await asyncio.to_thread(self._workers.shutdown, cancel_futures=True)
        for model in self._models.values():
            await model.aclose()

    def _model(self, name: str) -> LocalModel:
        model = self._models.get(name)
        if model is None:
            there = ", ".join(self._models)
            raise UpstreamError(
                f"model {name[:100]!r} is not here; there are: {there}",
                status=404,
                code="model_not_found",
                param="model",
            )
        return model

    def _thread(self, call: Call) -> "EngineThread":
        thread = self._model(call.model).thread
        assert thread is not None, "encoded without a model"
        return thread

    def _prepare(self, encoded: Encoded, call: Call) -> Prepared:
        max_len = self._thread(call).max_len
        return prepare(encoded, max_len, call.max_output_tokens, call.salt, wants_hidden=call.wants_hidden)

    async def _encoded(self, call: Call) -> Encoded:
        kept = self._kept.pop(call.id, None)
        # What a budget leaves may have changed since it was measured, but nothing else.
        if kept is not None and _key(kept[0]) == _key(call):
            return kept[1]
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._encode, call)

    def _encode(self, call: Call) -> Encoded:
        return self._model(call.model).encode(call, _read(call))


def _key(call: Call) -> tuple[object, ...]:
    """All that the encoded prompts depend on."""
    return id(call.body), call.wire, call.model, call.num_public_messages


def _read(call: Call) -> Asked:
    if call.wire == "completions":
        return read_completion(call.body)
    if call.wire == "messages":
        from farthing.upstreams.convert import as_chat

        call = as_chat(call)
    return read_chat(call.body)
