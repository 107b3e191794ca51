"""The server: OpenAI's and Anthropic's APIs in front of any upstream, with the cost on every answer."""
