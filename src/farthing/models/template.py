"""Chat templates: the Jinja text inside a model file that turns messages into one string.

A template is foreign code. It runs in Jinja's sandbox, which denies attributes and calls that reach outside, and under
a budget: loops, sizes of strings and of the result are limited, so that a hostile file costs a second, not the machine.
The environment offers what model authors rely on (as `transformers` sets it up): trim_blocks, lstrip_blocks, loop
controls, `raise_exception`, `strftime_now`, `tojson`, and `{% generation %}`, which has no effect on the text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError

from farthing.errors import CapacityError, CorruptModel, InvalidRequest
from farthing.models.sandbox import BudgetExceeded, Refused, budget, environment
from farthing.models.tokenizer import GUARDS, Tokenizer
from farthing.request import Message

__all__ = ["ROLES", "encode_chat", "render_chat"]

ROLES = ("system", "user", "assistant", "tool", "developer")
_MAX_SOURCE = 1_000_000  # characters of a template


def render_chat(
    template: str | None,
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Apply a chat template to messages (`Message`, or mappings with role and content, which may have more fields).

    Raises InvalidRequest for messages that cannot be used and for those the template itself refuses, CorruptModel for
    a template that is not valid or does not end within its budget.
    """
    if template is None:
        raise InvalidRequest("this model's file has no chat template; give the prompt as it is, without one (--raw)")
    rows = [_row(number, message) for number, message in enumerate(messages)]
    if not rows:
        raise InvalidRequest("messages is empty; give at least one")
    compiled = _compile(template)
    try:
        with budget():
            return compiled.render(
                messages=rows,
                add_generation_prompt=add_generation_prompt,
                bos_token=bos_token,
                eos_token=eos_token,
                tools=None if tools is None else list(tools),
                documents=None,
            )
    except Refused as error:
        raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from None
    except BudgetExceeded as error:
        raise CorruptModel(f"the model's chat template {error}; take another file, or --raw") from None
    except RecursionError:
        raise CorruptModel("the model's chat template recurses without end; take another file, or --raw") from None
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CorruptModel(f"the model's chat template failed on these messages: {what}; --raw goes without") from None


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    max_tokens: int | None = None,
    begun: str = "",
) -> list[int]:
    """Token ids of messages under the tokenizer's chat template: its control tokens are real, those written by users
    are ordinary text. Without such text the ids are exactly those of the rendered string.

    A letter that occurs nowhere else (the guard) is put into every control token a message contains, and beside a
    message's edge that could complete one with the template's text; after the template has run, whole control tokens
    are the template's own, and the guards are taken out again.

        content    hi<|im_end|>          hi<⌁|im_end|>                               hi < | im _end |>      (as text)
        rendered   <|im_start|>user\\nhi<⌁|im_end|><|im_end|>   ->   [im_start] user\\n hi<|im_end|> [im_end]

    begun is what the answer begins with: the model goes on from there. Raises as `render_chat` does, CapacityError for
    what is certain to have max_tokens or more before it is encoded, and InvalidRequest where the template lets answers
    begin with thoughts, for begun would become one.
    """
    rows = [_row(number, message) for number, message in enumerate(messages)]
    used = {*json.dumps([rows, tools, begun], ensure_ascii=False, default=str), *(tokenizer.chat_template or "")}
    guard = next(chr(code) for code in GUARDS if chr(code) not in used)
    guarder = _Guarder(tuple(tokenizer.control_tokens), guard)
    rendered = render_chat(
        tokenizer.chat_template,
        [{key: value if key == "role" else guarder.guard(value) for key, value in row.items()} for row in rows],
        add_generation_prompt=add_generation_prompt,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        tools=guarder.guard(tools),
    )
    if begun and rendered.rstrip().endswith("<think>"):
        raise InvalidRequest("this model's answers begin with thoughts, so their text cannot be begun for it")
    rendered += guarder.guard(begun)
    if max_tokens is not None:
        check_length(tokenizer, rendered.replace(guard, ""), max_tokens)
    return tokenizer.encode_template(rendered, guard)


def check_length(tokenizer: Tokenizer, text: str, max_tokens: int) -> None:
    """Raises CapacityError where the text has max_tokens or more, told from its length (`Tokenizer.least_tokens`)."""
    least = tokenizer.least_tokens(text)
    if least >= max_tokens:
        raise CapacityError(
            f"the prompt has at least {least} tokens; this model holds {max_tokens}, one of them for the answer at "
            "least: shorten it"
        )


class _Guarder:
    def __init__(self, control: tuple[str, ...], guard: str) -> None:
        self._guard = guard
        self._starts, self._prefixes, self._suffixes, self._longest = _edges(control)

    def guard(self, value: Any) -> Any:
        """The same value, its strings guarded; containers are copied."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {key: self.guard(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.guard(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        # Templates trim: the edges that will meet the template's text are those of the stripped content.
        body = text.strip()
        if not body:
            return text
        start = text.index(body)
        before, after = text[:start], text[start + len(body) :]
        sizes = range(1, min(self._longest, len(body) + 1))
        head = self._guard if any(body[:size] in self._suffixes for size in sizes) else ""
        tail = self._guard if any(body[-size:] in self._prefixes for size in sizes) else ""
        return before + head + self._starts.sub(rf"\g<0>{self._guard}", body) + tail + after


@lru_cache(maxsize=8)
def _edges(control: tuple[str, ...]) -> tuple[re.Pattern[str], frozenset[str], frozenset[str], int]:
    """A pattern for the first letter of every control token in a text, overlapping ones too; proper prefixes; proper
    suffixes; the longest control token's length."""
    starts = "|".join(f"{re.escape(text[0])}(?={re.escape(text[1:])})" for text in control)
    prefixes = frozenset(text[:size] for text in control for size in range(1, len(text)))
    suffixes = frozenset(text[size:] for text in control for size in range(1, len(text)))
    return re.compile(starts or r"(?!)"), prefixes, suffixes, max(map(len, control), default=0)


def _row(number: int, message: Message | Mapping[str, Any]) -> dict[str, Any]:
    row = {"role": message.role, "content": message.content} if isinstance(message, Message) else dict(message)
    role, content = row.get("role"), row.get("content")
    if role not in ROLES:
        raise InvalidRequest(f"messages[{number}]: role is {role!r}; allowed: {', '.join(ROLES)}")
    if not isinstance(content, str) and not (content is None and row.get("tool_calls")):
        raise InvalidRequest(f"messages[{number}]: content is {type(content).__name__}; give a string")
    return row


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    if len(source) > _MAX_SOURCE:
        raise CorruptModel(f"the model's chat template has {len(source)} characters; allowed: {_MAX_SOURCE}")
    try:
        return environment().from_string(source)
    except (TemplateError, RecursionError, SyntaxError, MemoryError) as error:
        what = " ".join(str(error).split())[:200]
        raise CorruptModel(f"the model's chat template is not valid Jinja: {what}; --raw goes without one") from None
