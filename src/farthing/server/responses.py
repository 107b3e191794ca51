"""OpenAI's /v1/responses, text in and out. No upstream speaks it: it becomes a chat body.

Nothing is stored here, so what needs a store (previous_response_id, conversation, background, store true) is refused
and every answer says store false. A field that is not known, or has no counterpart in chat, is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farthing.server import fields
from farthing.server.api import Asked
from farthing.server.responses_input import chat_messages, chat_tool_choice, chat_tools, response_format
from farthing.server.responses_renderer import ResponsesRenderer
from farthing.upstreams import UpstreamError

__all__ = ["Responses"]

Json = dict[str, Any]
LOGPROBS = "message.output_text.logprobs"
NEVER_THERE = (  # of items that no answer of ours has, so asking for them changes nothing
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
)
SAME_IN_CHAT = (
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
)
READ = frozenset(
    (
        *SAME_IN_CHAT,
        *("model", "input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "stream"),
        *("stream_options", "metadata", "store", "background", "truncation", "include", "top_logprobs"),
    )
)
FROM_CHAT = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "logprobs": "include",
}
STORED = ("previous_response_id", "conversation", "prompt")


@dataclass(frozen=True, slots=True)
class AskedResponse(Asked):
    """`given` is the client's own body: an answer repeats what was asked."""

    given: Mapping[str, Any] = field(default_factory=dict)


class Responses:
    endpoint = "responses"
    path = "/v1/responses"

    def parse(self, body: Json) -> Asked:
        """Raises UpstreamError (status 400)."""
        _check(body)
        model = fields.text(body, "model")
        chat: Json = {"model": model, "messages": chat_messages(body)}
        fields.number(body, "temperature", 0, 2)
        fields.number(body, "top_p", 0, 1)
        fields.boolean(body, "parallel_tool_calls")
        chat |= {name: body[name] for name in SAME_IN_CHAT if body.get(name) is not None}
        if (most := fields.integer(body, "max_output_tokens", 1)) is not None:
            chat["max_completion_tokens"] = most
        if tools := chat_tools(body):
            chat["tools"] = tools
        if body.get("tool_choice") is not None and (tools or body["tool_choice"] not in ("auto", "none")):
            chat["tool_choice"] = chat_tool_choice(body["tool_choice"])
        chat |= _text(body) | _reasoning(body) | _logprobs(body)
        is_stream = fields.boolean(body, "stream")
        if is_stream:
            chat["stream"] = True
        return AskedResponse("chat", chat, model, is_stream, is_body_changed=True, given=body)

    def renderer(self, asked: Asked, answer_id: str, created_s: int) -> ResponsesRenderer:
        given = asked.given if isinstance(asked, AskedResponse) else {}
        return ResponsesRenderer(
            asked.model, given, answer_id, created_s, has_logprobs=bool(asked.body.get("logprobs"))
        )

    def error_body(self, error: UpstreamError, request_id: str) -> Json:  # noqa: ARG002  it has no place for the id
        """A provider's own error where there is one, otherwise ours in the same shape. What an upstream says of a chat
        field is told of the field that it was made from."""
        if error.body is not None and isinstance(error.body.get("error"), dict):
            return dict(error.body)
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
        param, message = FROM_CHAT.get(error.param or "", error.param), str(error)
        if error.param and param and message.startswith(f"{error.param}: "):
            message = param + message[len(error.param) :]
        return {"error": {"message": message, "type": kind, "param": param, "code": error.code}}


def _check(body: Json) -> None:
    for name, value in body.items():
        if value is None or name in READ:
            continue
        if name in STORED:
            message = f"{name}: answers are not stored here; give the whole conversation as input"
        else:
            message = f"{name} is not supported by /v1/responses here; leave it out"
        raise fields.invalid(message, name, "unsupported_parameter")
    for name in ("store", "background"):
        if fields.boolean(body, name):
            message = f"{name} is true; answers are not stored here: leave it out, or false"
            raise fields.invalid(message, name, "unsupported_value")
    fields.one_of(body, "truncation", ("disabled",))
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise fields.invalid("metadata: allowed is an object", "metadata")
    options = body.get("stream_options")
    if options is not None and (not isinstance(options, dict) or any(options.values())):
        raise fields.invalid("stream_options: only include_obfuscation false is known", "stream_options")


def _text(body: Json) -> Json:
    text = body.get("text")
    if text is None:
        return {}
    if not isinstance(text, dict) or not set(text) <= {"format", "verbosity"}:
        raise fields.invalid("text: allowed is an object with format and verbosity", "text")
    wanted = response_format(text.get("format"))
    chat = {} if wanted is None else {"response_format": wanted}
    return chat if text.get("verbosity") is None else {**chat, "verbosity": text["verbosity"]}


def _reasoning(body: Json) -> Json:
    reasoning = body.get("reasoning")
    if reasoning is None:
        return {}
    if not isinstance(reasoning, dict):
        raise fields.invalid("reasoning: allowed is an object", "reasoning")
    for name, value in reasoning.items():
        if name != "effort" and value is not None:
            raise fields.invalid(f"reasoning.{name} is not supported", f"reasoning.{name}", "unsupported_parameter")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _logprobs(body: Json) -> Json:
    include = body.get("include") or []
    if not isinstance(include, list) or any(name not in (LOGPROBS, *NEVER_THERE) for name in include):
        raise fields.invalid(f"include: allowed is {LOGPROBS}", "include", "unsupported_value")
    num_top = fields.integer(body, "top_logprobs", 0, 20)
    if LOGPROBS not in include and not num_top:
        return {}
    return {"logprobs": True} if num_top is None else {"logprobs": True, "top_logprobs": num_top}
