"""The SDK's REST client."""

from collections.abc import Callable
from typing import Any, Final, Self

from backends.tinkex.client import service
from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.client.rest import client as rest
from backends.tinkex.compat.errors import InvalidArgumentError, translated
from backends.tinkex.compat.futures import APIFuture, pending, same
from crucible.errors import CrucibleError

_CALLS: Final = frozenset(
    {
        "copy_weights",
        "delete_checkpoint",
        "delete_checkpoint_from_tinker_path",
        "get_billing_usage",
        "get_external_weights_urls",
        "get_sampler",
        "get_server_capabilities",
        "get_session",
        "get_training_run",
        "get_training_run_by_tinker_path",
        "get_weights_info_by_tinker_path",
        "list_checkpoints",
        "list_sessions",
        "list_training_runs",
        "list_user_checkpoints",
        "publish_checkpoint_from_tinker_path",
        "set_checkpoint_ttl_from_tinker_path",
        "unpublish_checkpoint_from_tinker_path",
    }
)


class RestClient:
    """A client for runs, checkpoints and sessions, with the SDK's names for the methods of this client's own.

    Each returns a future; its twin with ``_async`` returns the result when it is awaited.
    """

    def __init__(self, *, base_url: str | None = None, api_key: str | None = None) -> None:
        try:
            self._use(service.ServiceClient(api_key, base_url))
        except CrucibleError as error:
            raise translated(error) from error

    @classmethod
    def of(cls, client: service.ServiceClient) -> Self:
        """Return a REST client that shares a service client's connections."""
        twin = cls.__new__(cls)
        twin._use(client)
        return twin

    def _use(self, client: service.ServiceClient) -> None:
        self._rest: rest.RestClient = client.create_rest_client()
        self._runner: Runner = client.runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        plain = name.removesuffix("_async")
        if plain not in _CALLS:
            raise AttributeError(f"RestClient has no call {name!r}")

        def call(*args: Any, access_scope: str = "owned", **options: Any) -> APIFuture[Any]:
            if access_scope != "owned":
                raise InvalidArgumentError(f"access_scope: {access_scope!r} is not allowed; allowed is owned")
            try:
                found = getattr(self._rest, plain)(*args, **options)
            except CrucibleError as error:
                raise translated(error) from error
            return pending(self._runner, found, same)

        async def call_async(*args: Any, **options: Any) -> Any:
            return await call(*args, **options)

        return call if name == plain else call_async

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_CALLS, *(f"{name}_async" for name in _CALLS)})

    def get_telemetry(self) -> None:
        """Return None: this client sends no telemetry."""
