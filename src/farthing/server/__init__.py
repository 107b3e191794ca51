"""The HTTP server: the APIs that clients know, over any upstream."""
