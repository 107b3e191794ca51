"""A small model with random weights whose chat template knows tools, in the manner of Qwen; and calls of it."""

import json
import shutil
from pathlib import Path
from typing import Any

from farthing.upstreams import Call, Chunk, Tally
from farthing.upstreams.local import LocalUpstream
from tests.models.small import GOLDEN

TEMPLATE = """
{%- if tools %}<|im_start|>system
Tools: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}Write <tool_call>{"name": …, "arguments": …}</tool_call> to call one.<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAMA_TEMPLATE = """
{%- if tools %}Environment: ipython. Answer {"name": …, "parameters": …}: {{ tools | tojson }}
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>
{% endfor %}"""


def write_model(folder: Path, template: str | None = TEMPLATE, *, control: tuple[str, ...] = (), **config: Any) -> Path:
    """The golden qwen2 with another template and a longer context; `control` become control tokens of their own."""
    shutil.copytree(GOLDEN / "qwen2", folder)
    _edit(folder / "config.json", {"max_position_embeddings": 2048, **config})
    if template is not None:
        _edit(folder / "tokenizer_config.json", {"chat_template": template})
    if control:
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        vocab = tokenizer["model"]["vocab"]
        merges = tokenizer["model"]["merges"]
        for place, name in enumerate(control, 1):  # instead of the last merged tokens: the vocabulary stays as wide
            last = next(token for token, id in vocab.items() if id == len(vocab) - place)
            id = vocab[name] = vocab.pop(last)
            merges.pop()
            plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            tokenizer["added_tokens"].append({"id": id, "content": name, **plain})
        path.write_text(json.dumps(tokenizer))
    return folder


def _edit(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def call_of(upstream: LocalUpstream, body: dict[str, Any], wire: Any = "chat", **more: Any) -> Call:
    return Call(id=more.pop("id", "1"), wire=wire, body=body, model=next(iter(upstream._models)), **more)


async def answer(upstream: LocalUpstream, body: dict[str, Any], wire: Any = "chat", **more: Any):
    """All chunks, and the tally."""
    tally = Tally()
    chunks = [chunk async for chunk in upstream.stream(call_of(upstream, body, wire, **more), tally)]
    return chunks, tally


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


def reason_of(chunks: list[Chunk], index: int = 0) -> str | None:
    (reason,) = [chunk.finish_reason for chunk in chunks if chunk.index == index and chunk.finish_reason]
    return reason


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]
