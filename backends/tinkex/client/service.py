"""The way in: sessions, training clients, sampling clients."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import SecretStr, ValidationError

from backends.tinkex.client.api_future import ApiFuture
from backends.tinkex.client.connection import Connection
from backends.tinkex.client.feature_probe import probe_features
from backends.tinkex.client.queue_reporter import QueueObserver, QueueReporter
from backends.tinkex.client.result_poll import Awaited, ResultPoll
from backends.tinkex.client.results import record_decoding
from backends.tinkex.client.runner import CallerLoop, Runner, shared_background
from backends.tinkex.client.session import HEARTBEAT_S, Session, SessionLost
from backends.tinkex.client.training import TrainingClient
from backends.tinkex.errors import Sought, invalid
from backends.tinkex.settings import resolve_endpoint
from backends.tinkex.types.checkpoint_path import ParsedCheckpointTinkerPath
from backends.tinkex.types.lora_config import LoraConfig
from backends.tinkex.types.requests import CreateModelRequest, CreateSamplingSessionRequest
from backends.tinkex.types.responses import CreateModelResponse, CreateSamplingSessionResponse
from backends.tinkex.types.server_capabilities import ServerCapabilities
from backends.tinkex.types.weights_info import WeightsInfo
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.features import FeatureMemory, ServerFeatures
from backends.tinkex.wire.retry import RetryConfig
from backends.tinkex.wire.transport import Limits, Transport

if TYPE_CHECKING:
    from backends.tinkex.client.rest import RestClient
    from backends.tinkex.client.sampling import SamplingClient

_DEFAULT_RANK: Final = 32
_NO_PROGRESS_S: Final = 3600.0


class ServiceClient:
    """One service, one session. No I/O until a method is called.

    Blocking code: ``ServiceClient()``; requests run on the process's one background thread. On an event loop,
    with no thread at all: ``ServiceClient.on_caller_loop()``, and the methods ending in ``_async``.
    """

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        user_metadata: Mapping[str, str] | None = None,
        project_id: str | None = None,
        observer: QueueObserver | None = None,
        on_session_lost: SessionLost | None = None,
        retry: RetryConfig | None = None,
        limits: Limits | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        no_progress_s: float = _NO_PROGRESS_S,
        memory: FeatureMemory | None = None,
        runner: Runner | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Without arguments: ``TINKER_API_KEY`` and ``TINKER_BASE_URL``, else a development server that runs here.

        ``observer`` hears why requests wait, at most once a minute. ``no_progress_s`` bounds how long the server
        may leave a request active without an end.

        Raises:
            InvalidRequest: an address without scheme or host, or no key where one is needed.
        """
        endpoint = resolve_endpoint(api_key, base_url)
        transport = Transport(endpoint, retry=retry, limits=limits, clock=clock, sleep=sleep)
        self.connection = Connection(transport, memory)
        self.runner = runner or shared_background()
        self.observer = observer
        self.no_progress_s = no_progress_s
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_session_lost
        self._user_metadata = dict(user_metadata or {})
        self._project_id = project_id
        self._session = self._new_session()
        self._attached: dict[str, Session] = {}

    @classmethod
    def on_caller_loop(
        cls, api_key: str | SecretStr | None = None, base_url: str | None = None, **options: Any
    ) -> Self:
        """A client that runs on the event loop of whoever calls it: no thread, any number of runs."""
        return cls(api_key, base_url, runner=CallerLoop(), **options)

    def with_new_session(self) -> Self:
        """A client of the same service with a session of its own; connections and what was learned are shared."""
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        twin._session = twin._new_session()
        twin._attached = {}
        return twin

    def __repr__(self) -> str:
        return f"ServiceClient(base_url={self.connection.server!r}, session_id={self.session_id!r})"

    @property
    def session_id(self) -> str | None:
        """The server's id of the session, once one was needed."""
        return self._session.session_id

    @property
    def features(self) -> ServerFeatures:
        """What is known of the server by now, without asking."""
        return self.connection.features

    # --- training -------------------------------------------------------------------------------------------

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = _DEFAULT_RANK,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
    ) -> TrainingClient:
        """A new run on ``base_model``. Blocks; in an event loop use the twin.

        Raises:
            InvalidRequest: the model or the adapter is refused.
        """
        return self.runner.wait(
            self.create_lora_training_client_async(
                base_model, rank, seed, train_mlp, train_attn, train_unembed, user_metadata
            )
        )

    async def create_lora_training_client_async(
        self,
        base_model: str,
        rank: int = _DEFAULT_RANK,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
    ) -> TrainingClient:
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
        return await self.runner.start(self._create_model(base_model, lora, user_metadata))

    def create_training_client_from_state(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> TrainingClient:
        """A new run with the weights of a checkpoint. Blocks; in an event loop use the twin."""
        return self.runner.wait(self.create_training_client_from_state_async(path, user_metadata))

    async def create_training_client_from_state_async(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> TrainingClient:
        """As ``create_training_client_from_state``."""
        return await self.runner.start(self._from_state(path, user_metadata, optimizer=False))

    def create_training_client_from_state_with_optimizer(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> TrainingClient:
        """A new run with weights and optimizer of a checkpoint. Blocks; in an event loop use the twin.

        Raises:
            InvalidRequest: ``path`` is no tinker path, or names no training state.
            NotFound: there is no such checkpoint.
        """
        return self.runner.wait(self.create_training_client_from_state_with_optimizer_async(path, user_metadata))

    async def create_training_client_from_state_with_optimizer_async(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> TrainingClient:
        """As ``create_training_client_from_state_with_optimizer``."""
        return await self.runner.start(self._from_state(path, user_metadata, optimizer=True))

    def attached_session(self, session_id: str | None) -> Session:
        """A session that another process made; heartbeats begin with the first request in it."""
        if session_id is None or session_id == self.session_id:
            return self._session
        if session_id not in self._attached:
            self._attached[session_id] = Session.attach(
                self.connection, session_id, heartbeat_s=self._heartbeat_s, on_lost=self._on_lost
            )
        return self._attached[session_id]

    # --- sampling and the rest ------------------------------------------------------------------------------

    def create_sampling_client(
        self, model_path: str | None = None, base_model: str | None = None
    ) -> "SamplingClient":
        """A client that samples from saved weights or a base model. Blocks; in an event loop use the twin."""
        return self.runner.wait(self.create_sampling_client_async(model_path, base_model))

    async def create_sampling_client_async(
        self, model_path: str | None = None, base_model: str | None = None
    ) -> "SamplingClient":
        """As ``create_sampling_client``.

        Raises:
            InvalidRequest: neither or both are given, the path is no tinker path, or the model is unknown.
            NotFound: there are no such weights.
        """
        if (model_path is None) == (base_model is None):
            raise invalid("model_path, base_model", (model_path, base_model), "give exactly one of them")
        if model_path is not None:
            ParsedCheckpointTinkerPath.from_tinker_path(model_path, field="model_path")
        return await self.runner.start(self._create_sampling(model_path, base_model))

    def create_rest_client(self) -> "RestClient":
        """A client for runs, checkpoints and sessions. No I/O."""
        from backends.tinkex.client.rest import RestClient

        return RestClient(self.connection, self.runner)

    def get_server_capabilities(self) -> ApiFuture[ServerCapabilities]:
        """The models that the server offers."""
        return self.create_rest_client().get_server_capabilities()

    async def get_server_capabilities_async(self) -> ServerCapabilities:
        """As ``get_server_capabilities``, awaited."""
        return await self.get_server_capabilities()

    def server_features(self, base_model: str | None = None) -> ApiFuture[ServerFeatures]:
        """What the server has, found out without harm and remembered.

        Whether it answers a repeated sequence number from its record can only be seen on a model. With
        ``base_model`` a small one is made for that and freed again; otherwise it is known once a training client
        has probed.
        """
        return self.runner.start(probe_features(self, base_model))

    def confirm_optimizer_restore(self, proved: bool) -> None:
        """Remember what repeated steps have shown: the optimizer came back after a load, or it did not."""
        self.connection.memory.learn(optimizer_restore=proved)

    # --- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End heartbeats and connections. Blocks; safe to call twice."""
        self.runner.wait(self._close())

    async def aclose(self) -> None:
        """As ``close``."""
        await self.runner.start(self._close())

    async def end_sessions(self) -> None:
        """End this client's heartbeats; connections, which may be shared, stay."""
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
            heartbeat_s=self._heartbeat_s,
            on_lost=self._on_lost,
        )

    async def _create_model(
        self, base_model: str, lora: LoraConfig, user_metadata: Mapping[str, str] | None
    ) -> TrainingClient:
        config = await self.connection.client_config()
        session_id = await self._session.ensure()
        request = CreateModelRequest(
            session_id=session_id,
            model_seq_id=self._session.next_model_seq_id(),
            base_model=base_model,
            lora_config=lora,
            user_metadata=dict(user_metadata) if user_metadata else None,
        )
        accepted = await self.connection.submit("create_model", json_body(request.body()), sought=Sought.MODEL)
        awaited = Awaited(
            accepted.request_id,
            "create_model",
            "CreateModel",
            record_decoding(CreateModelResponse, "create_model"),
            QueueReporter(self.observer, self.connection.transport.clock, base_model),
            sought=Sought.MODEL,
            no_progress_s=self.no_progress_s,
        )
        made = await ResultPoll(self.connection, awaited).result()
        return TrainingClient(self, model_id=made.model_id, session=self._session, config=config)

    async def _from_state(
        self, path: str, user_metadata: Mapping[str, str] | None, *, optimizer: bool
    ) -> TrainingClient:
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
        info = await self.connection.post(
            "weights_info", {"tinker_path": parsed.tinker_path}, WeightsInfo, sought=Sought.CHECKPOINT
        )
        lora = LoraConfig(
            rank=info.lora_rank or _DEFAULT_RANK,
            train_unembed=info.train_unembed is not False,
            train_mlp=info.train_mlp is not False,
            train_attn=info.train_attn is not False,
        )
        client = await self._create_model(info.base_model, lora, user_metadata)
        # The first request of the new run: some servers allow a load only there.
        load = await client.submit_load_state(path, optimizer=optimizer)
        await load
        return client

    async def _create_sampling(self, model_path: str | None, base_model: str | None) -> "SamplingClient":
        from backends.tinkex.client.sampling import SamplingClient

        request = CreateSamplingSessionRequest(
            session_id=await self._session.ensure(),
            sampling_session_seq_id=self._session.next_sampler_seq_id(),
            base_model=base_model,
            model_path=model_path,
        )
        made = await self.connection.post(
            "create_sampling_session",
            request.body(),
            CreateSamplingSessionResponse,
            sought=Sought.MODEL if model_path is None else Sought.CHECKPOINT,
        )
        return SamplingClient(
            self,
            made.sampling_session_id,
            session=self._session,
            base_model=base_model,
            model_path=model_path,
        )
