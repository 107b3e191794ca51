import os
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest

from farthing.errors import InvalidRequest
from farthing.upstreams import anthropic, echo, openai
from farthing.upstreams.hosted_config import guess_provider

KINDS = {"openai": openai.from_config, "anthropic": anthropic.from_config, "echo": echo.from_config}


@pytest.mark.parametrize(
    ("kind", "table", "says"),
    [
        ("openai", {"api_key": "sk-hidden"}, "api_key_env"),
        ("anthropic", {"api_key": "sk-hidden"}, "api_key_env"),
        ("openai", {"headers": {"Authorization": "Bearer sk-hidden"}}, "api_key_env"),
        ("openai", {"base_url": "https://me:sk-hidden@host/v1"}, "api_key_env"),
        ("openai", {"api_key_env": "NOT_SET"}, "NOT_SET, which is not set"),
        ("openai", {"api_key_env": "BAD"}, "no key"),
        ("openai", {"api_key_env": "sk-proj-hidden"}, "no name of an environment variable"),
        ("openai", {"api_key_env": ["sk-proj-hidden"]}, "no name of an environment variable"),
        ("anthropic", {"api_key_env": ""}, "no name of an environment variable"),
        ("openai", {"api_key_env": "gsk_hidden"}, "the environment variable, which is not set"),
        ("openai", {"timeout": 5}, "did you mean timeout_s"),
        ("openai", {"retry": 5}, "did you mean retries"),
        ("anthropic", {"include_usage": True}, "is unknown"),
        ("echo", {"delay": 1}, "did you mean delay_s"),
        ("echo", {"provider": "openai"}, "go together"),
        ("openai", {"timeout_s": -1}, "a number from"),
        ("openai", {"timeout_s": float("nan")}, "a number from"),
        ("openai", {"timeout_s": "5"}, "a number from"),
        ("openai", {"retries": 1.5}, "whole number from 0 to 10"),
        ("openai", {"retries": True}, "whole number"),
        ("openai", {"models": "gpt"}, "a list of texts"),
        ("openai", {"base_url": "host/v1"}, "address"),
        ("openai", {"base_url": "ftp://host/v1"}, "address"),
        ("openai", {"base_url": "http://[::1"}, "address"),
        ("openai", {"base_url": "http://host:99999"}, "address"),
        ("openai", {"base_url": 7}, "a text"),
        ("openai", {"headers": {"x": 1}}, "table of texts"),
        ("openai", {"headers": {"x": "a\r\ny: b"}}, "no HTTP header"),
        ("openai", {"include_usage": 1}, "true or false"),
        ("openai", {"limit_field": "max_output"}, "max_completion_tokens or max_tokens"),
        ("anthropic", {"limit_field": "max_tokens"}, "is unknown"),
    ],
)
def test_refused(kind: str, table: dict[str, Any], says: str) -> None:
    with (
        mock.patch.dict(os.environ, {"BAD": "sk-hidden\nx"}),
        pytest.raises(InvalidRequest) as caught,
    ):
        KINDS[kind]("mine", {"name": "mine", "kind": kind} | table)
    assert says in str(caught.value)
    assert "'mine'" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_taken() -> None:
    table = {
        "base_url": "https://api.groq.com/openai/v1/",
        "timeout_s": Decimal("30.5"),
        "retries": 0,
        "models": ["a"],
        "max_output_tokens": 100,
        "headers": {"X-Title": "farthing"},
    }
    up = openai.from_config("groq", table)
    assert (up.name, up.provider) == ("groq", "groq")
    assert openai.from_config("x", {"provider": "mine"}).provider == "mine"
    assert openai.from_config("x", {}).provider == "openai"
    assert anthropic.from_config("x", {}).provider == "anthropic"


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "google"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.openai.com.evil.example/v1", "api.openai.com.evil.example"),
        ("http://127.0.0.1:8000/v1", "127.0.0.1"),
    ],
)
def test_provider_is_guessed(url: str, provider: str) -> None:
    assert guess_provider(url) == provider
