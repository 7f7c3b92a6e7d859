"""The SDK's service client."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from backends.tinkex import types as ours
from backends.tinkex.client import service
from backends.tinkex.client.custom_losses.custom_loss_methods import Rank
from backends.tinkex.client.custom_losses.loss_handle import DatumLoss, LossHandle
from backends.tinkex.client.sampling import client as sampling
from backends.tinkex.client.session import FinishReason
from backends.tinkex.client.training import client as training
from backends.tinkex.compat.errors import InvalidArgumentError, translated
from backends.tinkex.compat.futures import APIFuture, ConvertedResult, pending, same
from backends.tinkex.compat.rest_client import RestClient
from backends.tinkex.compat.run_watch import RunWatch
from backends.tinkex.compat.sampling_client import SamplingClient, SamplingClientFuture, check_retries
from backends.tinkex.compat.training_client import Run, TrainingClient, TrainingClientFuture
from crucible.errors import CrucibleError, Unsupported


class ServiceClient:
    """A client of one service, with one session. No I/O until a client is made.

    The methods that make clients do not block: they return futures that may also be used as the client.
    """

    def __init__(
        self,
        user_metadata: dict[str, str] | None = None,
        project_id: str | None = None,
        *,
        display_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        default_headers_overrides: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if default_headers_overrides or options:
            names = [*options, *(["default_headers_overrides"] if default_headers_overrides else [])]
            raise InvalidArgumentError(f"{names[0]}: this client does not have it; leave it out")
        try:
            self._service = service.ServiceClient(
                api_key, base_url, user_metadata=user_metadata, project_id=project_id, display_name=display_name
            )
        except CrucibleError as error:
            raise translated(error) from error
        self._watches: set[concurrent.futures.Future[None]] = set()
        self._closing: APIFuture[None] | None = None

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: dict[str, str] | None = None,
        optimizer: ours.OptimizerConfigBase | None = None,
    ) -> TrainingClientFuture:
        """Start a run on ``base_model``."""
        try:
            work = self._service.create_lora_training_client_async(
                base_model, rank, seed, train_mlp, train_attn, train_unembed, user_metadata, optimizer
            )
        except CrucibleError as error:
            raise translated(error) from error
        return self._training(work)

    def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: ours.OptimizerConfigBase | None = None,
    ) -> TrainingClientFuture:
        """Start a run with the weights of a checkpoint."""
        make = partial(self._service.create_training_client_from_state_async, optimizer_config=optimizer)
        return self._from_state(make, path, base_model, user_metadata, weights_access_token)

    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> TrainingClientFuture:
        """Start a run with the weights and optimizer state of a checkpoint."""
        make = self._service.create_training_client_from_state_with_optimizer_async
        return self._from_state(make, path, base_model, user_metadata, weights_access_token)

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
    ) -> SamplingClientFuture:
        """Return a client for saved weights or a base model."""
        check_retries(retry_config)
        made = self._service.create_sampling_client_async(
            model_path, base_model, record_stability_info=record_stability_info
        )

        def wrapped(client: sampling.SamplingClient) -> SamplingClient:
            return SamplingClient(client, self._service.runner, self._service.connection.server)

        return SamplingClientFuture(pending(self._service.runner, made, wrapped).future())

    def create_custom_loss(self, fn: DatumLoss, input_ranks: Mapping[str, Rank]) -> APIFuture[LossHandle]:
        """Make a loss of one example, written with torch, that the server computes if it can."""
        try:
            made = self._service.create_custom_loss(fn, input_ranks)
        except CrucibleError as error:
            raise translated(error) from error
        return pending(self._service.runner, made, same)

    def create_rest_client(self) -> RestClient:
        """Return a client for runs, checkpoints and sessions."""
        return RestClient.of(self._service)

    def get_server_capabilities(self) -> ours.ServerCapabilities:
        """Return the models that the server offers. Blocks."""
        return self._capabilities().result()

    def copy_weights(
        self, path: str, *, ttl_seconds: int | None = None, weights_access_token: str | None = None
    ) -> APIFuture[str]:
        """Copy a checkpoint into the client's project; the result is the copy's path."""
        rest: Any = self.create_rest_client()
        copied: APIFuture[str] = rest.copy_weights(
            path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token
        )
        return copied

    def close(self, status: FinishReason = "success", detail: str | None = None) -> APIFuture[None]:
        """End the session and say how it went, and close the connections. The first call decides."""
        if self._closing is None:
            self._closing = pending(self._service.runner, self._close(status, detail), same)
        return self._closing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            status: FinishReason = "success"
        else:
            status = "errored" if issubclass(kind, Exception) else "interrupted"
        self.close(status).result()

    def get_telemetry(self) -> None:
        """Return None: this client sends no telemetry."""

    # --- twins: they return the client -----------------------------------------------------------------------

    async def create_lora_training_client_async(self, *args: Any, **options: Any) -> TrainingClient:
        """As ``create_lora_training_client``."""
        return await self.create_lora_training_client(*args, **options)

    async def create_training_client_from_state_async(self, *args: Any, **options: Any) -> TrainingClient:
        """As ``create_training_client_from_state``."""
        return await self.create_training_client_from_state(*args, **options)

    async def create_training_client_from_state_with_optimizer_async(
        self, *args: Any, **options: Any
    ) -> TrainingClient:
        """As ``create_training_client_from_state_with_optimizer``."""
        return await self.create_training_client_from_state_with_optimizer(*args, **options)

    async def create_sampling_client_async(self, *args: Any, **options: Any) -> SamplingClient:
        """As ``create_sampling_client``."""
        return await self.create_sampling_client(*args, **options)

    async def get_server_capabilities_async(self) -> ours.ServerCapabilities:
        """As ``get_server_capabilities``."""
        return await self._capabilities()

    # --- private --------------------------------------------------------------------------------------------

    def _capabilities(self) -> ConvertedResult[ours.ServerCapabilities]:
        return pending(self._service.runner, self._service.get_server_capabilities(), same)

    def _from_state(
        self,
        make: Callable[[str, dict[str, str] | None], Coroutine[Any, Any, training.TrainingClient]],
        path: str,
        base_model: str | None,
        user_metadata: dict[str, str] | None,
        weights_access_token: str | None,
    ) -> TrainingClientFuture:
        if weights_access_token is not None:
            raise InvalidArgumentError("weights_access_token: this client cannot send it; copy the weights first")
        try:
            work = make(path, user_metadata)
        except CrucibleError as error:
            raise translated(error) from error
        return self._training(self._of_model(work, base_model), path)

    async def _of_model(
        self, work: Coroutine[Any, Any, training.TrainingClient], base_model: str | None
    ) -> training.TrainingClient:
        """Await a run, and free it if it is not of the base model that the caller named."""
        client = await work
        if base_model is not None:
            found = (await client.get_info()).base_model
            if found != base_model:
                await client.discard()
                raise InvalidArgumentError(f"base_model: the checkpoint is of {found}, not of {base_model}")
        return client

    def _training(
        self, work: Coroutine[Any, Any, training.TrainingClient], checkpoint: str | None = None
    ) -> TrainingClientFuture:
        runner = self._service.runner

        def watched(client: training.TrainingClient) -> TrainingClient:
            watch = RunWatch(self._service.create_rest_client(), client.model_id, checkpoint)
            polling = runner.start(watch.poll()).future()
            self._watches.add(polling)
            polling.add_done_callback(self._watches.discard)
            return TrainingClient(Run(client, runner, self._service.connection.server, watch))

        return TrainingClientFuture(pending(runner, work, watched).future())

    async def _close(self, status: FinishReason, detail: str | None) -> None:
        for polling in list(self._watches):
            polling.cancel()
        try:
            # a server without such a call ends the session when its heartbeats stop
            with contextlib.suppress(Unsupported):
                await self._service.finish_session(status, detail)
        finally:
            await self._service.aclose()
