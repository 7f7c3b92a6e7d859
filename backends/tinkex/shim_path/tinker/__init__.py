"""The package ``tinker`` of ``nsai-work shim``: the names of the Tinker SDK on the client of nsai-work."""

try:
    from backends.tinkex.client.requests.connection import SDK_VERSION as __version__  # noqa: N811
    from backends.tinkex.compat import *  # noqa: F403  # every name of the SDK
except ImportError as error:
    raise ImportError(f"nsai-work shim: install nsai-work in this program's environment too: {error}") from error

from tinker import types  # this folder's, which has the SDK's modules

__all__ = ["__version__", "types"]
