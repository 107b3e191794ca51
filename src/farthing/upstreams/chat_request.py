"""OpenAI's chat completions: messages and everything that may stand beside them."""

from collections.abc import Mapping
from typing import Any

from farthing.upstreams.asked import MAX_CHOICES, UNBOUNDED, Asked, Form, sampling
from farthing.upstreams.body import Body, refuse
from farthing.upstreams.chat_messages import read_messages
from farthing.upstreams.tools import Choice, read_tools

__all__ = ["read_chat"]


def read_chat(fields: Mapping[str, Any]) -> Asked:
    """Raises UpstreamError (400) for what is not allowed or not supported."""
    body = Body(fields)
    for name in ("model", "stream", "stream_options", "user", "safety_identifier", "prompt_cache_key", "metadata"):
        body.take(name)  # of the call, not of the answer: the server has read them
    body.only("store", False, "answers are not stored here")
    body.choice("service_tier", ("auto", "default"))
    body.only("modalities", ["text"], "this model answers with text only")
    body.only("functions", [], "give them as tools")
    body.only("reasoning_effort", "none", "this model's thoughts cannot be steered")
    tools, forced, is_parallel = _tools(body)
    max_tokens, length_param = _max_tokens(body)
    asked = Asked(
        params=sampling(body, _logprobs(body)),
        max_tokens=max_tokens,
        n=body.integer("n", 1, MAX_CHOICES) or 1,
        messages=read_messages(body.take("messages")),
        form=_form(body),
        tools=tools,
        forced=forced,
        length_param=length_param,
        is_parallel=is_parallel,
        is_thoughtless=fields.get("reasoning_effort") == "none",
    )
    body.end()
    return asked


def _max_tokens(body: Body) -> tuple[int | None, str]:
    """(the limit, the field that it came by): max_completion_tokens is OpenAI's newer name for the same."""
    older = body.integer("max_tokens", 1, UNBOUNDED)
    newer = body.integer("max_completion_tokens", 1, UNBOUNDED)
    if older is not None and newer is not None and older != newer:
        refuse("max_completion_tokens", f"is {newer} and max_tokens is {older}; give one of the two")
    return (older, "max_tokens") if newer is None else (newer, "max_completion_tokens")


def _logprobs(body: Body) -> int | None:
    is_wanted = body.flag("logprobs", False)
    num_top = body.integer("top_logprobs", 0, 20)
    if num_top and not is_wanted:
        refuse("top_logprobs", "needs logprobs: true")
    return (num_top or 0) if is_wanted else None


def _form(body: Body) -> Form | None:
    value = body.mapping("response_format")
    if value is None:
        return None
    inner = Body(value, "response_format.")
    kind = inner.choice("type", ("text", "json_object", "json_schema"))
    if kind is None:
        inner.refuse("type", "allowed: text, json_object, json_schema")
    wrapped = inner.mapping("json_schema") if kind == "json_schema" else None
    inner.end()
    if kind != "json_schema":
        return Form("response_format") if kind == "json_object" else None
    if wrapped is None:
        inner.refuse("json_schema", "is missing; give an object with name and schema")
    described = Body(wrapped, "response_format.json_schema.")
    described.text("name")
    described.text("description")
    described.flag("strict", False)  # the schema always holds
    schema = described.take("schema")
    described.end()
    if schema is None:
        return Form("response_format")
    if not isinstance(schema, dict):
        described.refuse("schema", "allowed: a JSON schema, an object")
    return Form("response_format.json_schema.schema", schema)


def _tools(body: Body) -> tuple[Mapping[str, Mapping[str, Any]], tuple[str, ...], bool]:
    """The tools that the model is shown, those of which one must be called, whether several may be."""
    tools = read_tools(body.array("tools", 128))
    choice = Choice.of(body.take("tool_choice"), tuple(tools))
    is_parallel = body.flag("parallel_tool_calls", True)
    return ({} if choice.is_none else tools), choice.forced, is_parallel and not choice.is_named
