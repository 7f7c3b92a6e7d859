"""The entry point of the client: sessions, training clients and sampling clients of one service."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from pydantic import SecretStr, ValidationError

from backends.tinkex.client.custom_losses.custom_loss_methods import CustomLossMethods
from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.feature_probe import probe_features
from backends.tinkex.client.requests.queue_reporter import QueueObserver
from backends.tinkex.client.requests.runner import CallerLoop, Runner, shared_background
from backends.tinkex.client.rest.client import RestClient
from backends.tinkex.client.sampling.sampling_methods import SamplingMethods
from backends.tinkex.client.session import HEARTBEAT_S, FinishReason, Session, SessionLost
from backends.tinkex.client.training.client import TrainingClient
from backends.tinkex.client.training.model_creation import DEFAULT_RANK, ModelCreation
from backends.tinkex.errors import OrderUnclear, invalid
from backends.tinkex.settings import TinkexSettings, resolve_endpoint
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.lora_config import LoraConfig
from backends.tinkex.types.optimizer import OptimizerConfigBase
from backends.tinkex.types.server_capabilities import ServerCapabilities
from backends.tinkex.wire.features import FeatureMemory, ServerFeatures
from backends.tinkex.wire.retry import RetryConfig
from backends.tinkex.wire.transport import HttpLimits, HttpTransport

_NO_PROGRESS_S: Final = 3600.0


class ServiceClient(SamplingMethods, CustomLossMethods):
    """A client of one service with one session. No I/O until a method is called.

    ``ServiceClient()`` serves blocking code: requests run on the process's single background thread.
    ``ServiceClient.on_caller_loop()`` runs on the caller's event loop without a thread; use the ``_async`` methods.
    """

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        user_metadata: Mapping[str, str] | None = None,
        project_id: str | None = None,
        display_name: str | None = None,
        observer: QueueObserver | None = None,
        on_session_lost: SessionLost | None = None,
        retry: RetryConfig | None = None,
        limits: HttpLimits | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        no_progress_s: float = _NO_PROGRESS_S,
        waits_for_capacity: bool = True,
        memory: FeatureMemory | None = None,
        runner: Runner | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Create a client. Defaults: ``TINKER_API_KEY`` and ``TINKER_BASE_URL``, else a local development server.

        ``project_id``: the project of its sessions and of copied weights, by default ``TINKER_PROJECT_ID``; the
        sessions have the tags in ``TINKER_TAGS`` too.

        ``observer`` is called with the reason why requests wait, at most once a minute. ``no_progress_s`` bounds
        how long the server may keep a request active without finishing it. ``waits_for_capacity``: whether a new
        run waits while the server is at its limit of runs, as other requests do; otherwise it is a CapacityError.

        Raises:
            InvalidRequest: the address has no scheme or host, or a required key is missing.
        """
        endpoint = resolve_endpoint(api_key, base_url)
        transport = HttpTransport(endpoint, retry=retry, limits=limits, clock=clock, sleep=sleep)
        self.connection = Connection(transport, memory)
        self.runner = runner or shared_background()
        self.observer = observer
        self.no_progress_s = no_progress_s
        self._waits_for_capacity = waits_for_capacity
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_session_lost
        self._user_metadata = dict(user_metadata or {})
        settings = TinkexSettings()
        self._project_id = project_id or settings.project_id or None
        self._tags = tuple(filter(None, (settings.tags or "").split(",")))
        self._display_name = display_name
        self._session = self._new_session()
        self._attached: dict[str, Session] = {}

    @classmethod
    def on_caller_loop(
        cls, api_key: str | SecretStr | None = None, base_url: str | None = None, **options: Any
    ) -> Self:
        """Return a client that runs on its caller's event loop: no thread, any number of runs."""
        return cls(api_key, base_url, runner=CallerLoop(), **options)

    def with_new_session(self) -> Self:
        """Return a client with its own session that shares this client's connections and known features."""
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        twin._session = twin._new_session()
        twin._attached = {}
        return twin

    def __repr__(self) -> str:
        return f"ServiceClient(base_url={self.connection.server!r}, session_id={self.session_id!r})"

    @property
    def session_id(self) -> str | None:
        """The server's id of the session; None before the first request that needs one."""
        return self._session.session_id

    @property
    def features(self) -> ServerFeatures:
        """The features of the server that are known without a request."""
        return self.connection.features

    # --- training -------------------------------------------------------------------------------------------

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = DEFAULT_RANK,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
        optimizer_config: OptimizerConfigBase | None = None,
    ) -> TrainingClient:
        """Start a run on ``base_model``. Blocks; in an event loop use the twin.

        ``optimizer_config``: the family of optimizers for the run's life; by default AdamW.

        Raises:
            InvalidRequest: the model or the adapter is invalid.
            Unsupported: the server does not have the family of optimizers.
        """
        return self.runner.wait(
            self.create_lora_training_client_async(
                base_model, rank, seed, train_mlp, train_attn, train_unembed, user_metadata, optimizer_config
            )
        )

    def create_lora_training_client_async(
        self,
        base_model: str,
        rank: int = DEFAULT_RANK,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
        optimizer_config: OptimizerConfigBase | None = None,
    ) -> Coroutine[Any, Any, TrainingClient]:
        """As ``create_lora_training_client``."""
        if not isinstance(base_model, str) or not base_model:
            raise invalid("base_model", base_model, "give a model's name")
        try:
            lora = LoraConfig(
                rank=rank, seed=seed, train_mlp=train_mlp, train_attn=train_attn, train_unembed=train_unembed
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise invalid(str(first["loc"][0]), first["input"], str(first["msg"])) from None
        if not (train_mlp or train_attn or train_unembed):
            raise invalid("train_mlp, train_attn, train_unembed", False, "at least one must be trained")
        family = copy.deepcopy(optimizer_config)
        return self._started(partial(self._models().from_base, base_model, lora, dict(user_metadata or {}), family))

    def create_training_client_from_state(
        self,
        path: str | CheckpointAddress,
        user_metadata: Mapping[str, str] | None = None,
        optimizer_config: OptimizerConfigBase | None = None,
    ) -> TrainingClient:
        """Start a run with the weights of a checkpoint. Blocks; in an event loop use the twin.

        ``optimizer_config``: as for ``create_lora_training_client``.
        """
        return self.runner.wait(self.create_training_client_from_state_async(path, user_metadata, optimizer_config))

    def create_training_client_from_state_async(
        self,
        path: str | CheckpointAddress,
        user_metadata: Mapping[str, str] | None = None,
        optimizer_config: OptimizerConfigBase | None = None,
    ) -> Coroutine[Any, Any, TrainingClient]:
        """As ``create_training_client_from_state``."""
        address, family = CheckpointAddress.parse(path), copy.deepcopy(optimizer_config)
        return self._started(
            partial(self._models().from_state, address, dict(user_metadata or {}), optimizer=False, family=family)
        )

    def create_training_client_from_state_with_optimizer(
        self, path: str | CheckpointAddress, user_metadata: Mapping[str, str] | None = None
    ) -> TrainingClient:
        """Start a run with the weights and optimizer state of a checkpoint. Blocks; in an event loop use the twin.

        Raises:
            InvalidRequest: ``path`` cannot be a checkpoint's address, or is not that of a training state.
            NotFound: there is no such checkpoint.
        """
        return self.runner.wait(self.create_training_client_from_state_with_optimizer_async(path, user_metadata))

    def create_training_client_from_state_with_optimizer_async(
        self, path: str | CheckpointAddress, user_metadata: Mapping[str, str] | None = None
    ) -> Coroutine[Any, Any, TrainingClient]:
        """As ``create_training_client_from_state_with_optimizer``."""
        address = CheckpointAddress.parse(path)
        return self._started(partial(self._models().from_state, address, dict(user_metadata or {}), optimizer=True))

    def attached_session(self, session_id: str | None) -> Session:
        """Return a session that another process created. Its heartbeats start with the first request."""
        if session_id is None or session_id == self.session_id:
            return self._session
        if session_id not in self._attached:
            self._attached[session_id] = Session.attach(
                self.connection, session_id, heartbeat_s=self._heartbeat_s, on_lost=self._on_lost
            )
        return self._attached[session_id]

    # --- REST and features ------------------------------------------------------------------------

    def create_rest_client(self) -> RestClient:
        """Return a client for runs, checkpoints and sessions. No I/O."""
        return RestClient(self.connection, self.runner, self._project_id)

    def get_server_capabilities(self) -> ApiFuture[ServerCapabilities]:
        """Return the models that the server offers."""
        return self.create_rest_client().get_server_capabilities()

    async def get_server_capabilities_async(self) -> ServerCapabilities:
        """As ``get_server_capabilities``."""
        return await self.get_server_capabilities()

    def server_features(self, base_model: str | None = None) -> ApiFuture[ServerFeatures]:
        """Return the server's features, probed without side effects and remembered.

        ``replays_seq_id`` and ``orders_seq_id`` can only be probed on a model. With ``base_model``, a small one is
        created for it and freed again; otherwise the field stays unknown until a training client has probed it.
        """
        return self.runner.start(self._probe_features(base_model))

    # --- closing --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop heartbeats and close connections for good, those of ``with_new_session`` too. Blocks; idempotent."""
        self.runner.wait(self._close())

    async def aclose(self) -> None:
        """As ``close``."""
        await self.runner.start(self._close())

    def finish_session(self, reason: FinishReason = "success", detail: str | None = None) -> ApiFuture[None]:
        """End this client's session at the server and say how it went; its runs and samplers end with it.

        From the future: Unsupported on a server that ends sessions only when their heartbeats stop.
        """
        return self.runner.start(self._session.finish(reason, detail))

    async def end_sessions(self) -> None:
        """Stop this client's heartbeats. Connections, which may be shared, stay open."""
        await self.runner.start(self._end_sessions())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _close(self) -> None:
        await self._end_sessions()
        await self.connection.transport.aclose()

    async def _end_sessions(self) -> None:
        for session in (self._session, *self._attached.values()):
            await session.aclose()

    def _new_session(self) -> Session:
        return Session(
            self.connection,
            user_metadata=self._user_metadata,
            project_id=self._project_id,
            display_name=self._display_name,
            tags=self._tags,
            heartbeat_s=self._heartbeat_s,
            on_lost=self._on_lost,
        )

    async def _started(self, work: Callable[[], Coroutine[Any, Any, TrainingClient]]) -> TrainingClient:
        return await self.runner.start(work())

    def _models(self) -> ModelCreation:
        return ModelCreation(self, self._session, waits_for_capacity=self._waits_for_capacity)

    async def _probe_features(self, base_model: str | None) -> ServerFeatures:
        await probe_features(self.connection)
        if self.features.replays_seq_id is None and base_model is not None:
            client = await self.create_lora_training_client_async(base_model, rank=1, seed=0)
            try:
                await client.probe_replay()
                with suppress(OrderUnclear):
                    await client.probe_order()
            finally:
                await client.unload()
        return self.features
