"""Where the prefix of each of a series of requests stopped matching what had been sent before, and why.

The requests go through the real tokenizer, chat template and KVCache, in order and without a limit of pages, so what is
found is what an engine that had answered them in turn would have found of their prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.cache import KVCache, Lease
from farthing.errors import FarthingError, InvalidRequest
from farthing.models.tokenizer import Tokenizer
from farthing.report.chat_requests import ChatRequest
from farthing.report.culprits import Culprit, blame_messages, blame_tools, culprit, likeness, message_text
from farthing.report.rendering import Rendering

__all__ = ["Context", "Explained", "Explanation", "explain"]

TokenIds = npt.NDArray[np.int32]

_NUM_BEFORE, _NUM_BEHIND = 10, 6  # tokens shown around the first that differs
_MOST_RIVALS = 50  # earlier requests with as many pages in common that are compared by their words


@dataclass(frozen=True)
class Context:
    """A token with the text around it; `token` is empty where the request ends."""

    before: str
    token: bytes
    behind: str


@dataclass(frozen=True)
class Explained:
    """One request. num_found: tokens in the pages that were found; num_common: those it has in common with the earlier
    request `compared_with` (a place in the series), whose versions of the first differing token are `earlier` and
    `now`. All three are None for a request that has nothing before it."""

    name: str
    num_tokens: int
    num_found: int
    num_common: int
    culprit: Culprit
    compared_with: int | None = None
    earlier: Context | None = None
    now: Context | None = None


@dataclass(frozen=True)
class Explanation:
    page_size: int
    requests: tuple[Explained, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sent:
    request: ChatRequest
    ids: TokenIds  # [T]
    num_closed: int  # tokens before the opening of the answer
    text: str  # of its first messages, to find the version of it that came before


def explain(requests: Sequence[ChatRequest], tokenizer: Tokenizer, page_size: int) -> Explanation:
    """Raises InvalidRequest for requests that the model's template refuses, naming them."""
    rendering = Rendering(tokenizer)
    sent = [_send(rendering, request) for request in requests]
    num_found = _replay([one.ids for one in sent], [one.request.model for one in sent], page_size)
    explained = []
    for at, one in enumerate(sent):
        rival = _closest(one, sent[:at], page_size)
        if rival is None:
            blamed = culprit("first", "nothing was sent before it")
            explained.append(Explained(one.request.name, len(one.ids), num_found[at], 0, blamed))
            continue
        other, common = sent[rival], _num_common(one.ids, sent[rival].ids)
        explained.append(
            Explained(
                one.request.name,
                len(one.ids),
                num_found[at],
                common,
                _blame(rendering, other, one, common),
                rival,
                _context(tokenizer, other.ids, common),
                _context(tokenizer, one.ids, common),
            )
        )
    return Explanation(page_size, tuple(explained), rendering.notes(requests))


def _send(rendering: Rendering, request: ChatRequest) -> _Sent:
    try:
        ids = rendering.ids(request.messages, request.tools)
        closed = rendering.ids(request.messages, request.tools, add_generation_prompt=False)
    except FarthingError as error:
        raise InvalidRequest(f"{request.name}: {error}") from None
    num_closed = _num_common(ids, closed)
    return _Sent(request, ids, num_closed, "\n".join(map(message_text, request.messages[:2])))


def _replay(prompts: Sequence[TokenIds], salts: Sequence[str], page_size: int) -> list[int]:
    """Tokens of each prompt that a cache finds that has all prompts before it. One model's pages are not another's."""
    cache = KVCache(1 + sum(-(-len(ids) // page_size) for ids in prompts), page_size)
    num_found = []
    for ids, salt in zip(prompts, salts, strict=True):
        lease = cache.match(ids, salt)
        assert isinstance(lease, Lease)
        num_found.append(lease.num_tokens)
        is_room = cache.grow(lease, len(ids) - lease.num_tokens)
        assert is_room
        cache.commit(lease, ids)
        cache.release(lease)
    cache.check_idle()
    return num_found


def _num_common(a: TokenIds, b: TokenIds) -> int:
    """Tokens before the first that differs."""
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n


def _closest(one: _Sent, earlier: Sequence[_Sent], page_size: int) -> int | None:
    """The earlier request to compare with: most pages in common, then the same model, then the most alike, the latest.

    Pages and not tokens: where an id stands at the very beginning, how many digits agree by chance says nothing.
    """
    if not earlier:
        return None
    common = [_num_common(one.ids, other.ids) for other in earlier]
    most = max(common) // page_size
    rivals = [at for at, n in enumerate(common) if n // page_size == most][-_MOST_RIVALS:]
    if len(rivals) == 1:
        return rivals[0]

    def rank(at: int) -> tuple[bool, float, int, int]:
        other = earlier[at]
        return other.request.model == one.request.model, likeness(other.text, one.text), common[at], at

    return max(rivals, key=rank)


def _blame(rendering: Rendering, other: _Sent, one: _Sent, common: int) -> Culprit:
    before, now = other.request, one.request
    if before.model != now.model:
        return culprit("model", f"{now.model or 'no model'} instead of {before.model or 'none'}")
    if common == len(one.ids) == len(other.ids):
        return culprit("same", "the same prompt")
    if common >= other.num_closed:
        return culprit("appended", "all that was sent before is there, and more behind it")
    if common >= one.num_closed:
        return culprit("earlier turn", "all of it had been sent before, with more behind it")
    if repr(before.tools) != repr(now.tools):  # the order of keys counts too
        # The place where other tools alone would have parted the two: is it this one?
        with_other_tools = rendering.ids(before.messages, now.tools)
        if _num_common(other.ids, with_other_tools) <= common:
            return blame_tools(before.tools, now.tools)
    return blame_messages(before, now)


def _context(tokenizer: Tokenizer, ids: TokenIds, at: int) -> Context:
    before = tokenizer.decode(ids[max(0, at - _NUM_BEFORE) : at].tolist(), skip_special=False)
    behind = tokenizer.decode(ids[at + 1 : at + 1 + _NUM_BEHIND].tolist(), skip_special=False)
    return Context(before, tokenizer.token_bytes(int(ids[at])) if at < len(ids) else b"", behind)
