"""Origins of URLs: a key is sent to its own server only."""

from urllib.parse import urlsplit


def is_same_origin(url: str, server: str) -> bool:
    """Return whether a URL has the scheme and the host of a server."""
    return urlsplit(url)[:2] == urlsplit(server)[:2]
