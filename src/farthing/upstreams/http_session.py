"""What the connections to a provider are made with: pool, certificates, proxy.

aiohttp's own trust_env would look for a proxy, and for passwords in ~/.netrc, in a thread at each request; here the
proxy is found once. A session has no headers of its own: aiohttp would send them to the proxy as well.
"""

import os
import ssl
import urllib.request

import aiohttp
import certifi
import yarl

__all__ = ["UnknownProxy", "new_session", "proxy_for"]

MAX_CONNECTIONS = 4096
IDLE_S = 30.0  # a provider that closes sooner costs one more try
MAX_HEADER_BYTES = 32 << 10  # of one line
MAX_HEADERS = 256
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class UnknownProxy(Exception):
    """A proxy of a kind that is not spoken."""


def new_session(base_url: yarl.URL, connect_timeout_s: float) -> aiohttp.ClientSession:
    """For the running loop. No cookies: one client's would reach all others. Raises UnknownProxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=MAX_CONNECTIONS,
            keepalive_timeout=IDLE_S,
            ssl=_certificates() if base_url.scheme == "https" else True,
        ),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy_for(base_url),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
    )


def proxy_for(url: yarl.URL) -> yarl.URL | None:
    """As HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say; none reaches this machine. Raises UnknownProxy."""
    host = url.host or ""
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if host in THIS_MACHINE or not address or urllib.request.proxy_bypass(host):
        return None
    proxy = yarl.URL(address if "://" in address else f"http://{address}")
    if proxy.scheme not in ("http", "https"):
        raise UnknownProxy(f"a proxy over {proxy.scheme} is not supported, use one over http")
    return proxy


def _certificates() -> ssl.SSLContext:
    """The system's, or those of SSL_CERT_FILE and SSL_CERT_DIR; where there are none at all, certifi's."""
    context = ssl.create_default_context()
    folder = ssl.get_default_verify_paths().capath
    is_empty = folder is None or not os.listdir(folder)
    if is_empty and not context.cert_store_stats()["x509_ca"]:
        context.load_verify_locations(certifi.where())
    return context
