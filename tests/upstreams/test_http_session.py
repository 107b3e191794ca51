"""Certificates and proxies."""

import asyncio
import os
import ssl
from pathlib import Path
from unittest import mock

import pytest
import yarl

from farthing.upstreams import UpstreamError
from farthing.upstreams.http import Endpoint, Http
from farthing.upstreams.http_session import proxy_for
from tests.upstreams.provider import run
from tests.upstreams.raw_server import HEAD, raw_server, read_request

PEM = Path(__file__).with_name("localhost.pem")  # a key and its certificate, for tests only
GOOD = HEAD + b"content-length: 2\r\n\r\n{}"
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def environment(**given: str) -> dict[str, str]:
    others = {key: text for key, text in os.environ.items() if key.upper() not in (*NAMES, "SSL_CERT_FILE")}
    return others | given


async def asked(http: Http) -> tuple[str, str]:
    """The error's code and words, "" where the answer came."""
    try:
        await http.get_json("/models")
    except UpstreamError as error:
        return error.code, str(error)
    finally:
        await http.aclose()
    return "", ""


@pytest.mark.parametrize(("is_known", "code"), [(True, ""), (False, "upstream_unreachable")])
def test_a_certificate_must_be_known(is_known: bool, code: str) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(GOOD)
        await writer.drain()

    async def ask() -> tuple[str, str]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(PEM)
        async with raw_server(play, context) as port:
            return await asked(Http("up", Endpoint(f"https://localhost:{port}/v1", retries=0)))

    known = {"SSL_CERT_FILE": str(PEM)} if is_known else {}
    with mock.patch.dict(os.environ, environment(**known), clear=True):
        assert run(ask())[0] == code


@pytest.mark.parametrize(
    ("url", "given", "proxy"),
    [
        ("https://api.openai.com/v1", {}, None),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://api.openai.com/v1", {"ALL_PROXY": "http://u:w@p:1"}, "http://u:w@p:1"),
        ("https://api.openai.com/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://models.internal/v1", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://models.internal/v1", {"HTTP_PROXY": "http://p:1", "NO_PROXY": ".internal"}, None),
        ("http://localhost:8000/v1", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://[::1]:8000/v1", {"ALL_PROXY": "http://p:1"}, None),
    ],
)
def test_the_environment_names_the_proxy(url: str, given: dict[str, str], proxy: str | None) -> None:
    lower = {key.lower(): text for key, text in given.items()}  # HTTP_PROXY could be a header of CGI; others too
    with mock.patch.dict(os.environ, environment(**lower), clear=True):
        assert proxy_for(yarl.URL(url)) == (yarl.URL(proxy) if proxy else None)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_is_asked_and_told_no_key(scheme: str) -> None:
    heads: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(GOOD if scheme == "http" else b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async def ask() -> tuple[str, str]:
        async with raw_server(play) as port:
            proxy = {f"{scheme}_proxy": f"http://user:pass@127.0.0.1:{port}"}
            with mock.patch.dict(os.environ, environment(**proxy), clear=True):
                endpoint = Endpoint(f"{scheme}://models.test/v1", {"authorization": "Bearer secret"}, retries=0)
                return await asked(Http("up", endpoint))

    code, words = run(ask())
    assert "secret" not in words
    assert b"proxy-authorization: basic dxnlcjpwyxnz" in heads[0].lower()
    if scheme == "http":  # the proxy hands the request on, so it sees all of it
        assert code == ""
        assert heads[0].startswith(b"GET http://models.test/v1/models ")
    else:
        assert code == "upstream_unreachable"
        assert heads[0].startswith(b"CONNECT models.test:443 ")
        assert b"secret" not in heads[0]


def test_a_proxy_of_another_kind_is_refused() -> None:
    with mock.patch.dict(os.environ, environment(all_proxy="socks5://user:secret@p:1"), clear=True):
        http = Http("up", Endpoint("https://models.test/v1", retries=0))
        code, words = run(asked(http))
    assert code == "upstream_unreachable"
    assert "socks5" in words
    assert "secret" not in words
