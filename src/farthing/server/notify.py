"""systemd's readiness protocol (sd_notify): a word to the socket that a service manager named, where one did."""

import logging
import os
import socket

__all__ = ["notify"]

log = logging.getLogger("farthing.server")


def notify(state: str) -> None:
    """READY=1 once answers are given, STOPPING=1 when it drains. Whoever does not listen is no reason to stop."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
            door.sendto(state.encode(), f"\0{path[1:]}" if path.startswith("@") else path)
    except OSError as error:
        log.warning("NOTIFY_SOCKET does not listen: %s", error.strerror)
