"""The word to systemd: to a path and to an abstract name; nobody listening is no error."""

import socket

import pytest

from farthing.server.notify import notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_socket_that_is_named_is_told(tmp_path, monkeypatch, is_abstract):
    name = f"@farthing-{tmp_path.name}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(f"\0{name[1:]}" if is_abstract else name)
        door.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert door.recv(100) == b"READY=1"


def test_nobody_listens(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert not caplog.records
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    notify("READY=1")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
