"""A cache of sampling clients, reused between prompts."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.client.service import ServiceClient
from backends.tinkex.errors import invalid
from backends.tinkex.sampling.model_source import ModelSource
from crucible.errors import InvalidRequest, NotFound, RunGone

_MAX_CLIENTS: Final = 64
T = TypeVar("T")


class SamplerCache:
    """Caches the most recently created sampling clients of a service, in a separate session."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service
        self._session: ServiceClient | None = None
        self._clients: OrderedDict[str, SamplingClient] = OrderedDict()

    async def use(self, source: ModelSource, call: Callable[[SamplingClient], Awaitable[T]]) -> T:
        """Make a call with a client for ``source``; once more, in a new session, if the service has ended the old
        one. Sampling has no side effects.

        Raises:
            InvalidRequest: the weights do not exist.
        """
        session = self._open_session()
        try:
            return await call(await self._client(session, source))
        except RunGone:
            # unless another call has found it before, and begun a new one
            if session is self._session:
                await self.clear()
            return await call(await self._client(self._open_session(), source))

    async def clear(self) -> None:
        """Discard the clients and end their session."""
        session, self._session = self._session, None
        self._clients.clear()
        if session is not None:
            await session.end_sessions()

    def _open_session(self) -> ServiceClient:
        if self._session is None:
            self._session = self._service.with_new_session()
        return self._session

    async def _client(self, session: ServiceClient, source: ModelSource) -> SamplingClient:
        key = source.path or source.base_model
        known = self._clients.get(key)
        if known is not None:
            return known
        try:
            client = await new_sampling_client(session, source)
        except NotFound as error:
            raise invalid("options.model", source.name, error.message) from error
        if session is self._session:
            self._clients[key] = client
            while len(self._clients) > _MAX_CLIENTS:
                self._clients.popitem(last=False)
        return client


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
