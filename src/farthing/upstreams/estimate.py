"""Token counts where nobody reports them: bounds for reservations, and answers that broke off.

A count by tokenizer would cost 16 ms for a body of 100 KB, and most providers' tokenizers are not public. So tokens are
estimated from UTF-8 bytes. English has about 4.4 bytes to a token of o200k_base, code about 3.5, Chinese 3 to 4, digits
and dense JSON 2 to 3. Claude's newer tokenizers take about 1.5 times the tokens of o200k_base.
"""

from collections.abc import Mapping
from typing import Any

from farthing.economics.usage import Usage
from farthing.upstreams.call import Call
from farthing.upstreams.convert_fields import invalid
from farthing.upstreams.output_limits import assumed_output
from farthing.upstreams.usage_wire import MAX_COUNT

__all__ = ["estimate_usage", "max_usage", "num_choices", "text_bytes"]

BYTES_PER_TOKEN = 4.0  # what an answer without usage is billed by
BOUND_BYTES_PER_TOKEN = 3.0  # what is reserved: rather too much than too little
CLAUDE_FACTOR = 1.5
TOKENS_PER_MESSAGE = 3  # beside its keys and role, which are counted as text
TOKENS_PER_PICTURE = 1600  # about the most that OpenAI's and Anthropic's large models charge for one
ASKED = ("messages", "prompt", "system", "tools", "response_format", "functions")
PICTURES = ("image_url", "image", "input_image")
MOST = 10**12  # tokens: more is no reservation, and money stays within its integers
LIMITS = ("max_completion_tokens", "max_tokens")


def text_bytes(body: Mapping[str, Any]) -> tuple[int, int, int]:
    """(UTF-8 bytes of all text, pictures and files, messages) of what a body asks. Iterative: no depth hurts it."""
    num_bytes = num_pictures = 0
    stack = [body[key] for key in ASKED if key in body]
    messages = body.get("messages")
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            num_bytes += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif isinstance(value, Mapping):
            if value.get("type") in PICTURES:
                num_pictures += 1  # its data is base64, or an address
                continue
            stack += value.values()
            num_bytes += sum(map(len, value))
        elif isinstance(value, list):
            if value and isinstance(value[0], int):
                num_bytes += round(BYTES_PER_TOKEN) * len(value)  # a prompt of token ids
            else:
                stack += value
        else:
            num_bytes += 4  # a number, true, false, null
    return num_bytes, num_pictures, len(messages) if isinstance(messages, list) else 1


def _input_tokens(call: Call, bytes_per_token: float) -> int:
    num_bytes, num_pictures, num_messages = text_bytes(call.body)
    tokens = num_bytes / bytes_per_token * _factor(call.model)
    return round(tokens) + TOKENS_PER_PICTURE * num_pictures + TOKENS_PER_MESSAGE * num_messages


def _factor(model: str) -> float:
    return CLAUDE_FACTOR if "claude" in model.lower() else 1.0


def estimate_usage(call: Call, num_output_bytes: int) -> Usage:
    """The likely usage of an answer that nobody counted, from its bytes so far."""
    output = -int(-num_output_bytes * _factor(call.model) // BYTES_PER_TOKEN)
    return Usage(input_tokens=_input_tokens(call, BYTES_PER_TOKEN), output_tokens=output)


def num_choices(body: Mapping[str, Any]) -> int:
    """How many answers are generated, and paid for. Raises UpstreamError (400)."""
    most = 1
    for key in ("n", "best_of"):
        value = body.get(key)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 128:
                raise invalid(key, "a whole number from 1 to 128")
            most = max(most, value)
    prompt = body.get("prompt")
    return most * (len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1)


def max_usage(call: Call, most_output: int | None) -> Usage:
    """The most a call can use. most_output is the configured limit of a choice. Raises UpstreamError (400)."""
    limits = [most_output or assumed_output(call.model)]
    given = []
    for key in LIMITS:
        value = call.body.get(key)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
                raise invalid(key, f"a whole number from 0 to {MAX_COUNT:,}")
            given.append(value)
    if given:
        limits = [max(given), *([most_output] if most_output else [])]
    output = min(min(limits) * num_choices(call.body), MOST)
    if call.max_output_tokens is not None:
        output = min(output, call.max_output_tokens)
    return Usage(input_tokens=_input_tokens(call, BOUND_BYTES_PER_TOKEN), output_tokens=output)
