"""Answers of a given form: JSON of any shape, JSON by a schema, calls of tools. llguidance says which tokens may come.

A grammar is the client's and may be hostile: its size, the work of compiling it and of each token, and the states it
keeps are bounded, and what is beyond the bounds is refused or ends its own answer, nobody else's.
"""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from farthing.upstreams.body import refuse
from farthing.upstreams.schema import MAX_BYTES, OPTIONS, json_source

if TYPE_CHECKING:
    from farthing.models import Model

__all__ = ["Grammar", "GrammarConstraint", "Grammars", "json_grammar"]

MAX_KEPT = 16  # compiled grammars of one model


class GrammarConstraint:
    """One answer's place in a grammar (see request.Constraint)."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_done(self) -> bool:
        return self._matcher.is_stopped()

    @property
    def error(self) -> str:
        """Why it cannot go on, "" where it can or has come to its end: a limit was reached."""
        return self._matcher.get_error()

    def mask(self) -> bytes:
        return self._matcher.compute_bitmask()

    def take(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)


class Grammar:
    """A compiled grammar; called, it makes a constraint that stands at its beginning."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def __call__(self) -> GrammarConstraint:
        return GrammarConstraint(self._matcher.deep_copy())


class Grammars:
    """One model's grammars. Compiling takes up to some 100 ms: not for the event loop, nor for the engine's thread."""

    def __init__(self, model: "Model") -> None:
        self._lock = threading.Lock()
        self._eos_ids = sorted(model.eos_ids)
        vocabulary: Any = _Vocabulary(model)
        self._tokenizer = LLTokenizer(vocabulary, n_vocab=model.config.vocab_size, eos_token=self._eos_ids)
        self._limits = LLParserLimits(
            step_lexer_fuel=50_000,  # some 4 ms for a token
            max_lexer_states=10_000,  # some 20 MB
            verbose_errors=False,
        )
        self._kept: OrderedDict[str, Grammar] = OrderedDict()  # by source, the one used last at the end

    def compile(self, source: str, param: str) -> Grammar:
        """source: as llguidance takes it, see json_grammar. Raises UpstreamError (400) naming param, with llguidance's
        reason."""
        with self._lock:
            grammar = self._kept.get(source)
            if grammar is None:
                if len(source) > MAX_BYTES:
                    refuse(param, f"has {len(source)} bytes as a grammar; allowed: {MAX_BYTES}")
                grammar = self._kept[source] = Grammar(self._matcher(source, param))
            self._kept.move_to_end(source)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return grammar

    def _matcher(self, source: str, param: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)
        if matcher.is_error():
            refuse(param, f"cannot be used: {' '.join(matcher.get_error().split())[:300]}")
        # The first token may be beyond the limits too; and a schema that refers to nothing but itself allows none.
        first = matcher.deep_copy()
        mask = int.from_bytes(first.compute_bitmask(), "little")
        if mask & ~sum(1 << id for id in self._eos_ids) == 0:
            refuse(param, "no answer can satisfy it")
        return matcher


def json_grammar(schema: Any, param: str) -> str:
    """The source of a grammar for JSON by this schema; None is any object."""
    text = json_source({"type": "object"} if schema is None else schema, param)
    if len(text) > MAX_BYTES:
        refuse(param, f"has {len(text)} bytes; allowed: {MAX_BYTES}")
    try:
        return LLMatcher.grammar_from_json_schema(text, overrides=dict(OPTIONS))  # type: ignore[arg-type]
    except ValueError as error:
        refuse(param, f"cannot be used: {error}")


class _Vocabulary:
    """A model's tokens as llguidance asks for them."""

    is_tokenizer_wrapper = True

    def __init__(self, model: "Model") -> None:
        tokenizer, vocab_size = model.tokenizer, model.config.vocab_size
        self._tokenizer = tokenizer
        self.eos_token_id = min(model.eos_ids)
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(id) for id in range(vocab_size)]
        self.special_token_ids = [id for id in range(vocab_size) if tokenizer.is_control(id)]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text, add_bos=False)
