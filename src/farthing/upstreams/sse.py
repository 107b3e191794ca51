"""Server-sent events from raw bytes, cut anywhere, also inside a character.

Lines end in LF, CR LF or CR; a line that starts with a colon is a comment; several data lines of one event are joined
with LF; an empty line ends the event. Nothing is decoded here: data is UTF-8 that the JSON parser reads.
"""

from dataclasses import dataclass

__all__ = ["MAX_EVENT_BYTES", "Event", "EventTooLong", "Events"]

MAX_EVENT_BYTES = 32 << 20  # of one event: a picture in base64 fits, an endless line does not
BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event is longer than allowed. Whoever reads the stream says so in its own words."""


@dataclass(frozen=True, slots=True)
class Event:
    """name is "" where the stream gives none. A field `error:` (llama.cpp's servers write it) is an event "error"."""

    name: str
    data: bytes


class Events:
    """feed(bytes) gives the events that are complete; finish() the last one, if no empty line came after it."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest: list[bytes] = []  # of a line that is not complete
        self._num_rest_bytes = 0
        self._name = ""
        self._data: list[bytes] = []
        self._num_data_bytes = 0
        self._is_after_cr = False  # the CR has ended a line: an LF that follows it belongs to it
        self._is_at_start = True

    def feed(self, data: bytes) -> list[Event]:
        """Raises EventTooLong."""
        if self._is_after_cr and data:
            data = data.removeprefix(b"\n")
            self._is_after_cr = False
        if b"\r" in data:
            self._is_after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            self._keep(data)
            return []
        if self._rest:
            data = b"".join([*self._rest, data])
            self._rest, self._num_rest_bytes = [], 0
        lines = data.split(b"\n")
        self._keep(lines.pop())
        if self._is_at_start:
            self._is_at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        events: list[Event] = []
        for line in lines:
            if line:
                self._field(line)
            elif self._data:
                events.append(self._event())
            else:
                self._name = ""
        return events

    def finish(self) -> list[Event]:
        """Many servers leave out the last empty line; a browser would drop that event."""
        events = self.feed(b"\n") if self._rest else []
        return [*events, self._event()] if self._data else events

    def _keep(self, data: bytes) -> None:
        if data:
            self._rest.append(data)
            self._num_rest_bytes += len(data)
            self._check()

    def _check(self) -> None:
        if self._num_rest_bytes + self._num_data_bytes > self._max_event_bytes:
            raise EventTooLong

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data" or name == b"error":
            self._data.append(value)
            self._num_data_bytes += len(value) + 1
            self._check()
            if name == b"error":
                self._name = "error"
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")

    def _event(self) -> Event:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = Event(self._name, data)
        self._name, self._data, self._num_data_bytes = "", [], 0
        return event
