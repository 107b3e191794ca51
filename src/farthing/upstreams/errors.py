"""What an upstream may refuse or fail with, in terms that every wire can tell its client."""

from farthing.errors import FarthingError

__all__ = ["UpstreamError"]


class UpstreamError(FarthingError):
    """A call that was not answered, or not to its end.

    status is the HTTP status for the client (400 what it sent, 404 no such model, 429 too much, 502 the upstream
    failed, 503 not now, 504 too slow); code a short stable word ("context_length_exceeded", "upstream_unreachable");
    param the field at fault. is_retryable: another try, here or at another upstream, may succeed; never true once a
    first token has come. is_failure: whether that counts against the upstream where failures in a row have it passed
    over for a while; not of one that says at once that it cannot yet. body is what a provider said, of the call's own
    wire, for handing on.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        is_retryable: bool = False,
        is_failure: bool = True,
        body: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.is_retryable = is_retryable
        self.is_failure = is_failure
        self.body = body
