"""The same call in the other wire: Anthropic messages as OpenAI chat, and back.

Answers need no conversion: Chunks say the same whatever the wire. What the other wire has no word for is an error that
names the field. Dropped is only what changes no answer: cache_control towards chat, the thinking of earlier turns, the
name of a message, labels of a request.
"""

from farthing.upstreams.convert_to_chat import as_chat
from farthing.upstreams.convert_to_messages import DEFAULT_MAX_TOKENS, as_messages

__all__ = ["DEFAULT_MAX_TOKENS", "as_chat", "as_messages"]
