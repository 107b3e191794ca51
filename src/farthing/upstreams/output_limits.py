"""How long an answer may become where nobody set a limit: what is reserved for it, and what its provider is then sent.

Providers refuse a limit above what their model gives, so this must not be more than that. It is not more than
MOST_ASSUMED either: what is reserved is not there for other calls. Lengths as providers' own pages state them.
"""

__all__ = ["MOST_ASSUMED", "UNKNOWN_MODEL", "assumed_output"]

MOST_ASSUMED = 32_000
UNKNOWN_MODEL = 4096  # nearly every model gives as many, and nearly every server's context holds them
KNOWN = (  # the first that a model's name contains; older models, with less, before their families
    *((name, 4096) for name in ("gpt-3.5", "gpt-4-", "gpt-4o-2024-05-13", "claude-3-opus", "claude-3-sonnet")),
    ("claude-3-haiku", 4096),
    *((name, 8192) for name in ("claude-3-5", "claude-3.5", "gemini-1.5", "gemini-2.0", "deepseek-chat")),
    *((name, 16_384) for name in ("gpt-4o", "gpt-4.5", "gpt-5-chat")),
    *((name, MOST_ASSUMED) for name in ("gpt-4.1", "gpt-5", "claude", "gemini-2.5", "gemini-3", "deepseek-reasoner")),
)
REASONING = ("o1", "o3", "o4")  # as the beginning of a name: elsewhere such letters mean nothing


def assumed_output(model: str) -> int:
    """Output tokens of one choice; reasoning is among them."""
    name = model.lower()
    if name.rpartition("/")[2].split("-")[0] in REASONING:
        return MOST_ASSUMED
    return next((limit for part, limit in KNOWN if part in name), UNKNOWN_MODEL)
