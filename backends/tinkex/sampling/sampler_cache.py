"""A cache of sampling clients, reused between prompts."""

from collections import OrderedDict
from typing import Final

from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.client.service import ServiceClient
from backends.tinkex.errors import invalid
from backends.tinkex.sampling.model_source import ModelSource
from crucible.errors import InvalidRequest, NotFound

_MAX_CLIENTS: Final = 64


class SamplerCache:
    """Caches the most recently created sampling clients of a service, in a separate session."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service
        self._session: ServiceClient | None = None
        self._clients: OrderedDict[str, SamplingClient] = OrderedDict()

    async def get(self, source: ModelSource) -> SamplingClient:
        """Return a client for ``source``. Raises InvalidRequest when its weights do not exist."""
        key = source.path or source.base_model
        if key not in self._clients:
            if self._session is None:
                self._session = self._service.with_new_session()
            try:
                self._clients[key] = await new_sampling_client(self._session, source)
            except NotFound as error:
                raise invalid("options.model", source.name, error.message) from error
            while len(self._clients) > _MAX_CLIENTS:
                self._clients.popitem(last=False)
        return self._clients[key]

    async def clear(self) -> None:
        """Discard the clients and end their session."""
        session, self._session = self._session, None
        self._clients.clear()
        if session is not None:
            await session.end_sessions()


async def new_sampling_client(session: ServiceClient, source: ModelSource) -> SamplingClient:
    """Return a client in a session. Raises NotFound when the weights do not exist."""
    if source.checkpoint is None:
        return await session.create_sampling_client_async(None, source.base_model)
    try:
        return await session.create_sampling_client_async(source.checkpoint)
    except InvalidRequest:
        if not source.base_model:
            raise
        # As the official client does; some servers require the base model beside the weights.
        return await session.create_sampling_client_async(source.checkpoint, source.base_model)
