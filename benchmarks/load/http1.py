"""Just enough of HTTP/1.1 for a light load generator: a request's bytes, and a reader of answers."""

from collections.abc import Mapping

__all__ = ["Response", "request_bytes"]


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Response:
    """One answer, fed with bytes as they come. With content-length or chunks; one that ends with its connection is
    never complete. Raises ValueError for what is no HTTP."""

    def __init__(self) -> None:
        self.status = 0  # 0: the head is not here yet
        self.headers: dict[str, str] = {}  # lower case
        self.is_complete = False
        self._buffer = b""
        self._is_chunked = False
        self._left = 0  # bytes of body still to come, without chunks

    def feed(self, data: bytes) -> bytes:
        """What of the body this completes; of chunks only whole ones."""
        self._buffer += data
        if not self.status and not self._read_head():
            return b""
        return self._read_chunks() if self._is_chunked else self._read_plain()

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status = first.split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(f"no HTTP/1: {first[:80]!r}")
        self.status, self._buffer = int(status), rest
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self._is_chunked = "chunked" in self.headers.get("transfer-encoding", "")
        self._left = int(self.headers.get("content-length", -1))
        return True

    def _read_plain(self) -> bytes:
        data, self._buffer = self._buffer, b""
        self._left -= len(data)
        self.is_complete = self._left == 0
        return data

    def _read_chunks(self) -> bytes:
        found = []
        while not self.is_complete:
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                break
            size = int(line.split(b";")[0], 16)
            if len(rest) < size + 2:
                break
            found.append(rest[:size])
            self._buffer = rest[size + 2 :]
            self.is_complete = size == 0  # no trailers: nobody here sends any
        return b"".join(found)
