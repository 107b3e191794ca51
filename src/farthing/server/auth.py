"""Who asks, and for whom they say it is: the key, the project, the tags. All from headers, never from the body."""

from collections.abc import Mapping

from farthing.ledger import Books, InvalidKey, Key
from farthing.ledger.key import PREFIX
from farthing.server.errors import bad_request
from farthing.upstreams import UpstreamError

__all__ = ["identify", "project_of", "tags_of"]

MAX_SECRET_BYTES = 512
MAX_TAGS = 16
MAX_LABEL = 64  # characters of a tag or a project


async def identify(headers: Mapping[bytes, bytes], books: Books, *, is_required: bool) -> Key | None:
    """The key of the one who asks; None where nobody has to have one and none of ours was given.

    Clients must send something and send anything ("none", another server's key), so that is nobody where keys are not
    required; what looks like ours must be ours. Raises UpstreamError: 401, or 503 while the ledger is away.
    """
    secret = _secret(headers)
    if secret is None or not (is_required or secret.startswith(PREFIX)):
        if is_required:
            message = "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY"
            raise UpstreamError(message, status=401, code="missing_api_key")
        return None
    try:
        return await books.authenticate(secret)
    except InvalidKey as error:
        raise UpstreamError(str(error), status=401, code="invalid_api_key") from None


def _secret(headers: Mapping[bytes, bytes]) -> str | None:
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    secret = given.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()
    return secret[:MAX_SECRET_BYTES].decode("latin-1") or None


def tags_of(headers: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """x-farthing-tags: a, b. Raises UpstreamError (400) for too many, too long, or what is not printable."""
    given = headers.get(b"x-farthing-tags", b"").decode("utf-8", "replace").split(",")
    tags = tuple(dict.fromkeys(tag.strip() for tag in given if tag.strip()))
    if len(tags) > MAX_TAGS:
        raise bad_request(f"x-farthing-tags has {len(tags)} tags; allowed: {MAX_TAGS}", "x-farthing-tags")
    for tag in tags:
        _check_label(tag, "x-farthing-tags")
    return tags


def project_of(headers: Mapping[bytes, bytes], key: Key | None) -> str | None:
    """The key's; for one who needs no key, what the header x-farthing-project says. A header beside a key may only say
    the same: it would spend the budget of others. Raises UpstreamError (400, 403)."""
    named = headers.get(b"x-farthing-project", b"").decode("utf-8", "replace").strip()
    if key is None:
        _check_label(named, "x-farthing-project")
        return named or None
    if named and named != key.project:
        has = "of no project" if key.project is None else "of another project"
        message = f"x-farthing-project: this key is {has}; leave the header out, or make a key with --project"
        raise UpstreamError(message, status=403, code="project_not_allowed", param="x-farthing-project")
    return key.project


def _check_label(label: str, header: str) -> None:
    if len(label) > MAX_LABEL or not label.isprintable() or "\ufffd" in label:
        raise bad_request(f"{header}: each is at most {MAX_LABEL} printable characters, in UTF-8", header)
