"""What a classifier says as an answer: its label as text, or as the JSON that the client's schema asks for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farthing.upstreams.asked import Asked, Form
from farthing.upstreams.body import refuse, unsupported
from farthing.upstreams.call import Chunk, TokenLogprob
from farthing.upstreams.chat_request import read_chat
from farthing.upstreams.completion_request import read_completion
from farthing.upstreams.convert import as_chat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from farthing.upstreams.call import Call

__all__ = ["LabelForm", "Question", "read_question"]

_FIELD = "label"  # of a JSON object whose schema nobody gave
_MAX_REFS = 16  # that are followed, one after the other


@dataclass(frozen=True)
class LabelForm:
    """How a label is written. allowed: those that the schema lists, None being all of the model's."""

    param: str | None = None  # of the field that asked for it
    is_json: bool = False
    key: str | None = None  # of the object that it is written into
    allowed: frozenset[str] | None = None

    def text(self, label: str) -> str:
        if not self.is_json:
            return label
        return json.dumps(label if self.key is None else {self.key: label}, ensure_ascii=False)

    def chunk(
        self, index: int, labels: Sequence[str], logprobs: "npt.NDArray[np.float32]", num_top: int | None
    ) -> Chunk:
        """The answer: the likeliest of the labels that the schema lists. num_top None: without log-probabilities, which
        are the model's own, over all labels. Raises UpstreamError (400) where the schema lists none of them."""
        places = [at for at, label in enumerate(labels) if self.allowed is None or label in self.allowed]
        if not places:
            there = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
            refuse(self.param or "response_format", f"its enum has none of this model's labels; they are: {there}")
        values = logprobs.tolist()
        best = max(places, key=values.__getitem__)
        text = self.text(labels[best])
        if num_top is None:
            return Chunk(text, index, "stop")
        ranked = sorted(range(len(labels)), key=lambda at: -values[at])[:num_top]
        top = tuple((*self._spelled(labels[at]), values[at]) for at in ranked)
        return Chunk(text, index, "stop", logprobs=(TokenLogprob(*self._spelled(labels[best]), values[best], top),))

    def _spelled(self, label: str) -> tuple[str, bytes]:
        text = self.text(label)
        return text, text.encode("utf-8", "replace")


@dataclass(frozen=True)
class Question:
    """What is to be classified: texts (or their token ids). n answers to each are one answer, n times."""

    prompts: tuple[str | tuple[int, ...], ...]
    form: LabelForm
    num_top: int | None  # labels with log-probabilities, where they are wanted
    param: str  # the field that the text came by
    n: int = 1

    @property
    def num_answers(self) -> int:
        return self.n * len(self.prompts)


def read_question(call: "Call") -> Question:
    """The last thing the user said, or the prompts of completions. How tokens are to be chosen means nothing here: the
    likeliest label is the answer. Raises UpstreamError (400) for what a classifier cannot do."""
    if call.wire == "completions":
        asked, param = read_completion(call.body), "prompt"
    else:
        asked, param = read_chat((as_chat(call) if call.wire == "messages" else call).body), "messages"
    _refuse_what_generates(asked)
    prompts = asked.prompts
    if asked.messages:
        said = [row["content"] for row in asked.messages if row["role"] == "user"]
        if not said:
            refuse("messages", "has no message of the user, which is what this model classifies")
        prompts = (said[-1],)
    return Question(prompts, _form(asked.form), asked.params.logprobs, param, asked.n)


def _refuse_what_generates(asked: Asked) -> None:
    if asked.tools:
        unsupported("tools", "this model answers with one of its labels and calls no tools; leave them out")
    if asked.params.logit_bias:
        unsupported("logit_bias", "this model's answers are labels, not tokens; leave it out")


def _form(form: Form | None) -> LabelForm:
    if form is None:
        return LabelForm()
    if form.schema is None or form.schema == {}:
        return LabelForm(form.param, is_json=True, key=_FIELD)
    schema = _followed(form.schema, form.schema)
    if "enum" in schema:
        return LabelForm(form.param, is_json=True, key=None, allowed=_enum(schema))
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, dict) and len(properties) == 1:
        [(key, inner)] = properties.items()
        inner = _followed(inner, form.schema)
        if "enum" in inner:
            return LabelForm(form.param, is_json=True, key=key, allowed=_enum(inner))
        if inner.get("type") == "string" and not inner.keys() - {"type", "title", "description"}:
            return LabelForm(form.param, is_json=True, key=key)
    unsupported(
        form.param,
        'a classifier can answer {"type": "string", "enum": […]}, or an object with one property that is such a string',
    )


def _followed(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema, or what it refers to within the root; an empty one where that is nothing."""
    for _ in range(_MAX_REFS):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str):
            break
        place: Any = root
        for part in reference.removeprefix("#").strip("/").split("/"):
            place = place.get(part) if isinstance(place, dict) else None
        schema = place
    return schema if isinstance(schema, dict) else {}


def _enum(schema: Mapping[str, Any]) -> frozenset[str]:
    values = schema["enum"]
    return frozenset(value for value in values if isinstance(value, str)) if isinstance(values, list) else frozenset()
