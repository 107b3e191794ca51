"""Who is let in, how much is taken on, and that nothing a client sends makes the server fail."""

import asyncio
import json
import logging
import socket
import threading
import time

import httpx2
import pytest

from farthing.errors import InvalidRequest
from farthing.ledger import LedgerConfig
from farthing.ledger.key import insert_key
from farthing.ledger.opening import open_database
from farthing.server.config import ServerConfig, UpstreamEntry, is_loopback
from farthing.server.config_file import Config
from farthing.server.cors import EXPOSED
from farthing.server.running import serve
from tests.server.serving import serving

CHAT = "/v1/chat/completions"
POST = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n"
PATHS = (
    *("/v1/../etc/passwd", "/v1/models/..%2f..%2fetc", "//v1/models", "/v1/models/%00", "/v1/models/%ff", "/v1//"),
    *("/v1/chat/completions/", "/V1/MODELS", "/v1/models/" + "a" * 9000, "/v1/messages/x", "/*", "/%2e"),
    "/v1/models?a=%zz",
)


def ask(text="say a", **more):
    return {"model": "play", "messages": [{"role": "user", "content": text}], **more}


def make_key(folder, name="ada", models=(), project=None):
    database = open_database(LedgerConfig(url=f"sqlite:///{folder / 'ledger.db'}"))
    database.begin()
    try:
        return insert_key(database, name, project, models, None)
    finally:
        database.commit()
        database.close()


def post(url, body, path=CHAT, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(url + path, json=body, headers=names)


def test_a_key_is_asked_for_where_one_is_required(tmp_path, caplog):
    key, secret = make_key(tmp_path, project="moon")
    with caplog.at_level(logging.DEBUG), serving(tmp_path, require_keys=True) as server:
        wrong = ({}, {"authorization": "Bearer fk-wrong"}, {"x_api_key": "fk-wrong"}, {"authorization": "Basic x"})
        for headers in wrong:
            answer = post(server.url, ask(), **headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"
            assert "fk-wrong" not in answer.text
        messages = {"model": "play", "max_tokens": 5, "messages": ask()["messages"]}
        refused = post(server.url, messages, "/v1/messages")
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
        assert httpx2.get(server.url + "/v1/models").status_code == 401
        assert httpx2.get(server.url + "/metrics").status_code == 401
        assert httpx2.get(server.url + "/health").status_code == 200
        for headers in ({"authorization": f"Bearer {secret}"}, {"x_api_key": secret}):
            assert post(server.url, ask(), **headers).status_code == 200
        rows = server.rows()
        assert [(row.key_id, row.project) for row in rows] == [(key.id, "moon")] * 2
        assert [call.salt for call in server.play.calls] == [key.id] * 2
    assert secret not in caplog.text


@pytest.mark.parametrize(("own", "named"), [("moon", "sun"), (None, "sun"), ("moon", "mo"), ("moon", "\u20ac" * 99)])
def test_nobody_spends_the_budget_of_anothers_project(tmp_path, own, named):
    _, secret = make_key(tmp_path, project=own)
    with serving(tmp_path) as server:
        auth = {"authorization": f"Bearer {secret}"}
        refused = post(server.url, ask(), x_farthing_project=named.encode(), **auth)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "project_not_allowed")
        assert "--project" in refused.json()["error"]["message"]
        assert server.play.calls == []
        assert post(server.url, ask(), x_farthing_project=own or "", **auth).status_code == 200
        assert post(server.url, ask(), x_farthing_project="sun").status_code == 200  # who has no key names one freely
        assert [row.project for row in server.rows()] == [own, "sun"]


def test_a_slash_at_the_end_of_a_path_changes_nothing(server):
    for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"):
        body = ask(prompt="say a", input="say a", max_tokens=5)
        one, other = post(server.url, body, path), post(server.url, body, path + "/")
        assert (one.status_code, list(one.json())) == (other.status_code, list(other.json()))
        assert one.status_code != 404
    assert post(server.url, ask(), CHAT + "//").status_code == 404


def test_a_key_may_be_for_some_models_only(tmp_path):
    _, secret = make_key(tmp_path, models=["other"])
    with serving(tmp_path) as server:
        answer = post(server.url, ask(), authorization=f"Bearer {secret}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert post(server.url, ask(), authorization="Bearer anything").status_code == 200
        assert post(server.url, ask(), authorization="Bearer fk-notours").status_code == 401


def test_the_body_does_not_say_who_asks(server):
    body = ask(salt="x", key_id="x", user="x", num_public_messages=1, tags=["x"])
    assert post(server.url, body).status_code == 200
    call = server.play.calls[-1]
    assert (call.salt, call.key_id, call.num_public_messages, call.tags) == ("", None, 0, ())


def test_a_public_system_message_is_one_word_for_word(tmp_path):
    with serving(tmp_path, public_system_messages=("You are kind.",)) as server:
        for system, num in (("You are kind.", 1), ("You are kind. ", 0)):
            messages = [{"role": "system", "content": system}, {"role": "user", "content": "say a"}]
            post(server.url, {"model": "play", "messages": messages})
            assert server.play.calls[-1].num_public_messages == num
        post(server.url, {"model": "play", "messages": [{"role": "user", "content": "You are kind."}]})
        assert server.play.calls[-1].num_public_messages == 0


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1"])
def test_other_names_for_loopback_are_refused(server, host):
    assert post(server.url, ask(), host=host).status_code == 403
    assert httpx2.get(server.url + "/v1/models", headers={"host": host}).status_code == 403


def test_pages_of_other_hosts_are_refused(server):
    assert post(server.url, ask(), origin="https://evil.example").status_code == 403
    assert post(server.url, ask(), origin="null").status_code == 403
    assert post(server.url, ask(), origin="http://localhost:3000").status_code == 200
    assert post(server.url, ask(), host="LOCALHOST:1").status_code == 200
    assert post(server.url, ask(), host="[::1]:1").status_code == 200


def test_allowed_hosts(tmp_path):
    with serving(tmp_path, allowed_hosts=("models.example",)) as server:
        assert post(server.url, ask(), host="models.example:443").status_code == 200
        assert post(server.url, ask(), host="other.example").status_code == 403


def test_a_public_address_needs_keys(tmp_path):
    with pytest.raises(InvalidRequest, match="require_keys"), serving(tmp_path, host="0.0.0.0"):
        pass
    with pytest.raises(InvalidRequest, match="no active key"), serving(tmp_path, host="0.0.0.0", require_keys=True):
        pass
    make_key(tmp_path)
    with serving(tmp_path, host="0.0.0.0", require_keys=True) as server:
        assert post(server.url, ask(), host="any.example").status_code == 401


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        *((host, True) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "box.local", "localhost.evil")),
    ],
)
def test_what_is_loopback(host, is_ours):
    assert is_loopback(host) is is_ours


def test_too_many_at_once_get_503(tmp_path):
    with serving(tmp_path, max_concurrent=2) as server:
        threads = [threading.Thread(target=post, args=(server.url, ask("say wait a"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: server.play.num_running == 2)
        refused = post(server.url, ask())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "server_busy"
        server.soon(server.play.go_on.set)
        for thread in threads:
            thread.join()
        assert post(server.url, ask()).status_code == 200
        wait_for(lambda: server.service.gate.num_buffered_bytes == 0)  # soon after its client has the end


def test_draining_lets_running_answers_finish(tmp_path):
    with serving(tmp_path) as server, httpx2.Client() as client:
        with client.stream("POST", server.url + CHAT, json=ask("say a wait b", stream=True)) as stream:
            lines = stream.iter_lines()
            assert "assistant" in next(lines)
            server.soon(setattr, server.service.gate, "is_draining", True)
            wait_for(lambda: httpx2.get(server.url + "/health/ready").status_code == 503)
            refused = post(server.url, ask())
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["connection"] == "close"
            server.soon(server.play.go_on.set)
            assert list(lines)[-2] == "data: [DONE]"
        assert [row.status for row in server.rows()] == ["ok"]


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_is_not_done_in_time_is_ended(tmp_path, is_stream):
    with serving(tmp_path, request_timeout_s=0.2) as server:
        answer = post(server.url, ask("hang", stream=is_stream))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
        answer = post(server.url, ask("say a sleep9", stream=is_stream))
        assert answer.status_code == (200 if is_stream else 504)
        assert "request_timeout" in answer.text
        assert "[DONE]" not in answer.text
        wait_for(lambda: len(server.rows()) == 2)
        assert [row.status for row in server.rows()] == ["aborted"] * 2


def test_large_bodies_and_slow_ones(tmp_path):
    with serving(tmp_path, max_body_bytes=1000, max_buffered_bytes=1500, body_timeout_s=0.3) as server:
        refused = post(server.url, ask("say " + "x" * 1000))
        assert (refused.status_code, refused.headers["connection"]) == (413, "close")
        chunked = httpx2.post(server.url + CHAT, content=iter([b"x" * 600] * 3))
        assert chunked.status_code == 413
        with talking(server.url) as line:
            line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
            assert b" 408 " in read_all(line)
        waiting = threading.Thread(target=post, args=(server.url, ask("say wait " + "y" * 800)))
        waiting.start()
        wait_for(lambda: server.play.num_running == 1)
        assert post(server.url, ask("say " + "y" * 800)).status_code == 503
        server.soon(server.play.go_on.set)
        waiting.join()
        assert post(server.url, ask("say " + "y" * 800)).status_code == 200


def test_a_body_is_no_head(server):
    text = "say " + "x" * 200_000
    with talking(server.url) as line:
        body = json.dumps(ask(text)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n" % len(body)
        line.sendall((head + b"\r\n" + body) * 2)
        time.sleep(0.1)
        line.sendall(head + b"connection: close\r\n\r\n" + body)
        assert read_all(line).count(b"HTTP/1.1 200 OK") == 3


def test_heads_are_bounded(tmp_path):
    with serving(tmp_path, max_header_bytes=2000, max_headers=20, head_timeout_s=0.4) as server:
        start = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
        for head in (
            start + b"x: " + b"y" * 3000 + b"\r\n\r\n",
            start + b"a: b\r\n" * 30 + b"\r\n",
            b"GET /" + b"y" * 3000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        ):
            with talking(server.url) as line:
                line.sendall(head)
                answer = read_all(line)
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "head_too_large"
        with talking(server.url) as line, pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            send_forever(line)  # one header without an end
        with talking(server.url) as line:  # a head that does not end in time
            line.sendall(start)
            assert read_all(line) == b""
        with talking(server.url) as line:  # several requests over one connection
            line.sendall((start + b"\r\n") * 3)
            time.sleep(0.1)
            line.sendall(start + b"connection: close\r\n\r\n")
            assert read_all(line).count(b'{"status":"ok"}') == 4


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_does_not_read_loses_its_place(tmp_path, is_stream):
    echo = UpstreamEntry("echo", "echo", {"bytes": 16 << 20, "chunks": 4})
    with serving(tmp_path, echo, request_timeout_s=1.0) as server, talking(server.url) as line:
        body = json.dumps({**ask(), "model": "echo", "stream": is_stream}).encode()
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        line.sendall(b"content-length: %d\r\n\r\n" % len(body) + body)
        deadline_s = time.monotonic() + 60
        while server.service.gate.num_running or not server.rows():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


@pytest.mark.parametrize("num_pieces", [1, 2, 1000])
def test_an_offer_of_another_protocol_keeps_its_body(server, num_pieces):
    """Java's client offers HTTP/2 with each request and sends its body all the same."""
    body = json.dumps(ask()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n" % len(body)
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
    raw = (head + offer + body) * 2 + b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with talking(server.url) as line:
        size = -(-len(raw) // num_pieces)
        for at in range(0, len(raw), size):
            line.sendall(raw[at : at + size])
        answers = read_all(line)
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.count(b'"finish_reason":"stop"') == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\0\0",
        b"GET\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_harms_nobody(server, raw):
    with talking(server.url) as line:
        line.sendall(raw)
        line.shutdown(socket.SHUT_WR)
        assert not read_all(line).startswith(b"HTTP/1.1 5")
    assert httpx2.get(server.url + "/health").status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "HEAD"])
def test_paths_that_are_not_there(server, path, method):
    with talking(server.url) as line:
        line.sendall(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        answer = read_all(line)
    status = int(answer.split()[1])
    assert status in (400, 404, 405) or (path.startswith("/v1/models?") and status in (200, 405))
    if status in (404, 405) and method != "HEAD":
        head, body = answer.split(b"\r\n\r\n", 1)
        assert json.loads(body)["error"]["message"]
        assert (status == 405) == (b"allow:" in head)


def test_what_cannot_be_listened_on_is_named(tmp_path):
    upstreams = (UpstreamEntry("echo", "echo", {}),)
    ledger = {"url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, words in (("127.0.0.1", rf"127\.0\.0\.1 port {port}.*--port"), ("127.0.0.1 x", "127.0.0.1 x")):
            config = Config(ServerConfig(host=host, port=port), upstreams=upstreams, ledger=ledger)
            with pytest.raises(InvalidRequest, match=words):
                asyncio.run(serve(config, lambda _: None))


@pytest.mark.parametrize("options", [{}, {"response_cache": {"enabled": True}}])
@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_that_never_waits_and_is_not_read_keeps_nobody_waiting(tmp_path, is_stream, options):
    body = json.dumps({"model": "echo", "messages": ask()["messages"], "stream": is_stream, "temperature": 0}).encode()
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body))
    echo = UpstreamEntry("echo", "echo", {"bytes": 2 << 20})
    with serving(tmp_path, echo, **options) as server, talking(server.url) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(head + body)
        wait_for(lambda: server.service.gate.num_running == 1)
        assert httpx2.get(server.url + "/health", timeout=5).status_code == 200
        assert server.service.gate.num_running == 1  # it is not over


def test_settings_out_of_range():
    for bad in ({"port": 70000}, {"max_concurrent": 0}, {"max_headers": 1}, {"drain_s": -1.0}, {"max_body_bytes": 0}):
        with pytest.raises(InvalidRequest, match=f"{next(iter(bad))} is"):
            ServerConfig(**bad)


def send_forever(line):
    for _ in range(200):
        line.sendall(b"z" * 1000)
        time.sleep(0.002)
    pytest.fail("the server reads on")


def wait_for(is_true, seconds=5.0):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def talking(url):
    host, port = url.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)))
    line.settimeout(5)
    return line


def read_all(line):
    data = b""
    try:
        while piece := line.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def preflight(url, origin, **more):
    names = {"origin": origin, "access-control-request-method": "POST"} | more
    return httpx2.options(url + CHAT, headers=names)


def test_pages_that_are_allowed_may_call(tmp_path):
    page, wanted = "https://chat.example", "authorization, content-type,x-stainless-lang"
    with serving(tmp_path, allowed_origins=(page, "app://obsidian.md")) as server:
        asked = preflight(server.url, page, **{"access-control-request-headers": wanted})
        assert (asked.status_code, asked.content) == (204, b"")
        assert asked.headers["access-control-allow-origin"] == page
        assert asked.headers["access-control-allow-methods"] == "GET, POST"
        assert asked.headers["access-control-allow-headers"] == wanted
        assert asked.headers["vary"] == "origin"
        for body in (ask(), ask(stream=True), ask("refuse 429"), {}):
            answer = post(server.url, body, origin=page)
            assert answer.headers["access-control-allow-origin"] == page
            assert "x-farthing-cost-usd" in answer.headers["access-control-expose-headers"].split(", ")
            assert "access-control-allow-credentials" not in answer.headers
        assert post(server.url, ask(), origin="app://obsidian.md").status_code == 200
        for other in ("https://chat.example.evil", "http://chat.example", "https://chat.example:8443", "null"):
            assert post(server.url, ask(), origin=other).status_code == 403
            assert preflight(server.url, other).status_code == 403
        assert post(server.url, ask(), origin=page, host="evil.example").status_code == 403
        mine = post(server.url, ask(), origin="http://localhost:3000")
        assert (mine.status_code, mine.headers.get("access-control-allow-origin")) == (200, None)
        assert "access-control-allow-origin" not in post(server.url, ask()).headers
        odd = preflight(server.url, page, **{"access-control-request-headers": "a b; c"})
        assert (odd.status_code, odd.headers.get("access-control-allow-headers")) == (204, None)
        assert httpx2.options(server.url + CHAT, headers={"origin": page}).status_code == 405


def test_all_pages_may_call_only_with_a_key(tmp_path):
    _, secret = make_key(tmp_path)
    with serving(tmp_path, allowed_origins=("*",), require_keys=True) as server:
        assert preflight(server.url, "https://any.example").headers["access-control-allow-origin"] == "*"
        refused = post(server.url, ask(), origin="null")
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
        assert post(server.url, ask(), origin="null", authorization=f"Bearer {secret}").status_code == 200
    for origin in ("*", "chat.example", "https://chat.example/", "https://*.example", "https://Chat.example", "null"):
        with pytest.raises(InvalidRequest, match="allowed_origins"):
            ServerConfig(allowed_origins=(origin,))


def test_what_our_headers_are_called_is_exposed(server):
    answer = post(server.url, ask())
    ours = {name for name in answer.headers if name.startswith("x-farthing-")}
    assert ours
    assert ours <= set(EXPOSED)
