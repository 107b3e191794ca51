"""The application: which path is answered by whom. Everything in it is plain ASGI, so nothing buffers a stream."""

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from farthing.server.answer import Answerer
from farthing.server.api import Api
from farthing.server.asking import AskEndpoint
from farthing.server.auth import identify
from farthing.server.chat import Chat
from farthing.server.completions import Completions
from farthing.server.counting import TokenCounter
from farthing.server.door import Door
from farthing.server.errors import error_headers, openai_error_body
from farthing.server.feedback import FEEDBACK_PATH, FeedbackEndpoint, FeedbackTaker
from farthing.server.messages import COUNT_PATH, Messages
from farthing.server.models import model_entry, model_list
from farthing.server.openapi import openapi_document
from farthing.server.reply import dump
from farthing.server.responses import Responses
from farthing.server.service import Service
from farthing.upstreams import UpstreamError

__all__ = ["create_app"]


def create_app(service: Service) -> Starlette:
    """The ASGI application for an opened service (see service.open_service)."""
    apis: Sequence[Api] = (Chat(), Completions(), Responses(), Messages())
    pages = _Pages(service, [*(api.path for api in apis), FEEDBACK_PATH])
    asked = {api.path: AskEndpoint(api, Answerer(api, service), service) for api in apis}
    asked[COUNT_PATH] = AskEndpoint(Messages(), TokenCounter(service), service)
    asked[FEEDBACK_PATH] = AskEndpoint(FeedbackEndpoint(), FeedbackTaker(service), service)
    routes = [
        # Some clients end a path with a slash; a redirect would cost them the body, or the answer.
        *(Route(path + end, endpoint, methods=["POST"]) for path, endpoint in asked.items() for end in ("", "/")),
        Route("/v1/models", pages.models),
        Route("/v1/models/{name:path}", pages.model),
        Route("/health", pages.health),
        Route("/health/ready", pages.ready),
        Route("/metrics", pages.metrics),
        Route("/openapi.json", pages.openapi),
    ]
    handlers: Any = {HTTPException: _http_error, UpstreamError: _upstream_error}
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(Door, config=service.config)])
    app.router.redirect_slashes = False
    return app


class _Pages:
    """What is asked with GET."""

    def __init__(self, service: Service, paths: Sequence[str]) -> None:
        self._service = service
        self._openapi = dump(openapi_document(paths))

    async def models(self, request: Request) -> Response:
        key = await self._key(request)
        return _json(200, model_list(self._service.catalog.visible(key), self._service.started_s))

    async def model(self, request: Request) -> Response:
        found = self._service.catalog.find(request.path_params["name"], await self._key(request))
        return _json(200, model_entry(found, self._service.started_s))

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        return _json(200, {"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """Whether new calls would be answered: not while the server drains or the ledger is away."""
        why = None
        if self._service.gate.is_draining:
            why = "draining"
        elif self._service.books.stats().is_away:
            why = "the ledger is away"
        return _json(200, {"status": "ready"}) if why is None else _json(503, {"status": "not ready", "reason": why})

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._openapi, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        if not self._service.config.is_metrics_public:
            await self._key(request)
        data, content_type = self._service.metrics.render(request.headers.get("accept", ""))
        return Response(data, headers={"content-type": content_type})

    async def _key(self, request: Request) -> Any:
        config = self._service.config
        return await identify(dict(request.scope["headers"]), self._service.books, is_required=config.require_keys)


def _json(status: int, document: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(dump(document), status, headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message, code = str(error.detail), "bad_request"
    if error.status_code == 404:
        hint = "; clients of OpenAI's API take a base URL that ends in /v1" if not path.startswith("/v1/") else ""
        message, code = f"there is no {path[:200]!r} here{hint}", "not_found"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message, code = (
            f"{request.method[:20]} is not allowed for {path[:200]}; allowed: {allowed}",
            "method_not_allowed",
        )
    failure = UpstreamError(message, status=error.status_code, code=code)
    return _json(error.status_code, _error_body(path, failure), dict(error.headers or {}))


async def _upstream_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UpstreamError)
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return _json(error.status, _error_body(request.url.path, error), headers)


def _error_body(path: str, error: UpstreamError) -> dict[str, Any]:
    if path.startswith(Messages.path):
        return Messages().error_body(error, "")
    return openai_error_body(error)
