"""Load for a server: a mock provider, an open-loop generator of requests, and the figures made of what came back."""
