"""A running chat server: a backend, and the application for it on a port of loopback."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from crucible.errors import InvalidRequest
from crucible.http.redaction import remember_secret
from crucible.registry import load_backend
from nsai_work.asgi_server import bound_socket, serving_app
from nsai_work.chat_server.app import chat_app
from nsai_work.chat_server.models import OfferedModels

HOST: Final = "127.0.0.1"


@asynccontextmanager
async def chat_server(
    backend: str, models: Mapping[str, str], *, port: int, key: str | None = None
) -> AsyncIterator[str]:
    """Serve a backend while the context is open, and yield the URL that clients need, which ends with ``/v1``.

    ``models``: see ``OfferedModels``. Port 0 is any free one. With a ``key``, calls without it are refused.

    Raises:
        InvalidRequest: the port cannot be listened on, a setting of the backend is invalid, or a model unknown.
        UnknownBackend, PluginError: as ``load_backend``.
    """
    remember_secret(key)
    service = load_backend(backend)
    try:
        listening = bound_socket(HOST, port)
    except OSError as error:
        raise InvalidRequest.of("--port", port, f"cannot listen on it: {error.strerror}; choose another") from error
    with listening:
        async with service:
            await OfferedModels(service, models).require()
            async with serving_app(chat_app(service, models, key=key), listening):
                yield f"http://{HOST}:{listening.getsockname()[1]}/v1"
