"""The settings that hosted upstreams share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from farthing.upstreams.http import Endpoint, Http
from farthing.upstreams.settings import Table
from farthing.upstreams.usage_wire import malformed

__all__ = ["Hosted", "guess_provider", "read_hosted"]

DEFAULTS = Endpoint("")
PROVIDERS = {  # host, or the end of one: the provider as genai-prices names it
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "api.anthropic.com": "anthropic",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral",
    "api.x.ai": "x-ai",
    "api.together.xyz": "together",
    "api.together.ai": "together",
    "api.fireworks.ai": "fireworks",
    "api.cerebras.ai": "cerebras",
    "api.perplexity.ai": "perplexity",
    "api.moonshot.ai": "moonshotai",
    "api.moonshot.cn": "moonshotai",
    "api.novita.ai": "novita",
    "api.z.ai": "zai",
    "api.minimax.io": "minimax",
    "openrouter.ai": "openrouter",
    "googleapis.com": "google",
}


@dataclass(frozen=True, slots=True)
class Hosted:
    endpoint: Endpoint
    provider: str
    model_names: tuple[str, ...] = ()  # empty: whatever the endpoint has
    max_output_tokens: int | None = None

    async def list_models(self, http: Http, path: str) -> list[str]:
        """Raises UpstreamError where the endpoint is asked and does not say."""
        if self.model_names:
            return list(self.model_names)
        listed = await http.get_json(path)
        models = listed.get("data") if isinstance(listed, Mapping) else listed
        if not isinstance(models, list):
            raise malformed("its list of models is no list")
        names = [model.get("id") for model in models if isinstance(model, Mapping)]
        return [name for name in names if isinstance(name, str)]


def guess_provider(base_url: str) -> str:
    """The provider of a known host; another host is its own provider, whose prices nobody knows."""
    host = urlsplit(base_url).hostname or ""
    for end, provider in PROVIDERS.items():
        if host == end or host.endswith(f".{end}"):
            return provider
    return host


def read_hosted(settings: Table, default_url: str, auth: Callable[[str], Mapping[str, str]]) -> Hosted:
    """The shared keys of a table; nothing may be left in it after. Raises InvalidRequest."""
    base_url = (settings.text("base_url") or default_url).rstrip("/")
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.fragment:
        raise settings.error("base_url", f'must be an address such as "{default_url}", with http or https')
    if parts.username or parts.password:
        raise settings.error("base_url", "holds a secret, and none may stand in this file; use api_key_env")
    secret = settings.secret("api_key_env")
    headers = settings.headers("headers") | (dict(auth(secret)) if secret else {})
    endpoint = Endpoint(
        base_url=base_url,
        headers=headers,
        secret=secret,
        connect_timeout_s=settings.number("connect_timeout_s", DEFAULTS.connect_timeout_s, 0.001),
        first_byte_timeout_s=settings.number("first_byte_timeout_s", DEFAULTS.first_byte_timeout_s, 0.001),
        chunk_timeout_s=settings.number("chunk_timeout_s", DEFAULTS.chunk_timeout_s, 0.001),
        timeout_s=settings.number("timeout_s", DEFAULTS.timeout_s, 0.001),
        retries=DEFAULTS.retries if (retries := settings.whole("retries", 0, 10)) is None else retries,
        backoff_s=settings.number("backoff_s", DEFAULTS.backoff_s, 0.0, 60.0),
    )
    names = settings.texts("models")
    hosted = Hosted(
        endpoint=endpoint,
        provider=settings.text("provider") or guess_provider(base_url),
        model_names=() if "*" in names else names,
        max_output_tokens=settings.whole("max_output_tokens", 1),
    )
    settings.end()
    return hosted
