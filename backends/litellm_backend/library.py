"""The LiteLLM library: imported on demand, without output or downloads, and its connections closed."""

import asyncio
import contextlib
import inspect
import os
import re
import threading
from collections import Counter
from typing import Any, Final

from backends.litellm_backend.settings import BACKEND
from backends.litellm_backend.transport import install_transport
from crucible.errors import Unsupported
from crucible.http.redaction import remember_secret

_NO_DOWNLOADS: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
}
_MODE: Final = "LITELLM_MODE"
_SECRET_NAME: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")

_importing = threading.Lock()
_open: Counter[int] = Counter()


async def opened() -> Any:
    """Return the library for a backend on the running event loop. Pair each call with ``closed``.

    Raises:
        Unsupported: it is not installed.
    """
    # LiteLLM reads any provider's key itself, and its errors may quote one
    remember_secret(*(value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())))
    # in a thread, because the import takes seconds
    library = await asyncio.to_thread(_imported)
    _open[id(asyncio.get_running_loop())] += 1
    return library


async def closed(library: Any) -> None:
    """Close the library's connections after the last backend on the running event loop is closed.

    LiteLLM caches a client for each address, key and event loop, by the loop's id. A later loop can have the same
    id, and would otherwise get the clients of the earlier loop.
    """
    loop = id(asyncio.get_running_loop())
    _open[loop] -= 1
    if _open[loop] > 0:
        return
    del _open[loop]
    clients: dict[str, Any] = getattr(library.in_memory_llm_clients_cache, "cache_dict", {})
    for key in [key for key in clients if key.endswith(f"-{loop}")]:
        await _close(clients.pop(key))


async def _close(client: Any) -> None:
    method = getattr(client, "close", None) or getattr(client, "aclose", None)
    if method is None:
        return
    with contextlib.suppress(Exception):
        result = method()
        if inspect.isawaitable(result):
            await result


def _imported() -> Any:
    with _importing:
        # LiteLLM reads these two after the import as well. They stay, so that it never downloads its tables.
        os.environ.update(_NO_DOWNLOADS)
        before = os.environ.get(_MODE)
        # in any other mode the import loads the nearest .env file into this process's environment
        os.environ[_MODE] = "PRODUCTION"
        try:
            import litellm
        except ImportError as exc:
            raise Unsupported(
                "the package litellm is not installed; pip install 'nsai-work[litellm]'", backend=BACKEND
            ) from exc
        finally:
            if before is None:
                del os.environ[_MODE]
            else:
                os.environ[_MODE] = before
        # no advice on the terminal, and no tokenizers from a hub for token counts
        litellm.suppress_debug_info = True
        litellm.disable_hf_tokenizer_download = True
        install_transport()
        return litellm
