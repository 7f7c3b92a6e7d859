"""``TinkexBackend``: completions and training through any service with the Tinker API."""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from pydantic import JsonValue

from backends.tinkex.backend_settings import TinkexBackendSettings
from backends.tinkex.capabilities import ALL_FEATURES, LOSSES, METRICS, capabilities_of, require_expressible
from backends.tinkex.capability_cache import CapabilityCache
from backends.tinkex.client.service import ServiceClient
from backends.tinkex.client.training.client import TrainingClient
from backends.tinkex.client.training.training_service import TrainingService
from backends.tinkex.discovery import running_dev_server
from backends.tinkex.errors import BACKEND, OrderUnclear, invalid
from backends.tinkex.new_run import new_run
from backends.tinkex.recovery import RecoveryExecutor, validate
from backends.tinkex.run import TinkexRun
from backends.tinkex.sampling.model_source import ModelSource, find_model
from backends.tinkex.sampling.rendered_prompt import tokenizer_named
from backends.tinkex.sampling.sampler import TOP_LOGPROBS, sample
from backends.tinkex.sampling.sampler_cache import SamplerCache, new_sampling_client
from backends.tinkex.sampling.token_sampler import TinkexSampler
from backends.tinkex.settings import TinkexSettings
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.server_capabilities import SupportedModel
from backends.tinkex.wire.retry import RetryConfig
from crucible.backend import Health, TrainingBackend, no_report
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import (
    CallerError,
    CapacityError,
    CrucibleError,
    NotFound,
    RecoveryExhausted,
    RunCorrupted,
    RunGone,
    Unsupported,
)
from crucible.losses import POLICY_LOSSES
from crucible.prompt import Message, Prompt, TextPart
from crucible.recovery import RecoveredRun, RecoveryObserver, RecoveryRequest
from crucible.rendering.tokenizer import Tokenizer
from crucible.requirements import require
from crucible.stream import StreamEvent, events_of
from crucible.token_sampler import TokenSampler
from crucible.training import CheckpointCheck, LiveRun, RunRef, RunSpec, RunState
from crucible.values.record_reader import read_record
from crucible.values.suggestions import known_names

_DEV_ARCHITECTURE: Final = "tiny-lm"
_FOREIGN_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class _OpenState:
    """The objects of an open backend that belong to one service address."""

    service: ServiceClient
    executor: RecoveryExecutor
    server: CapabilityCache
    samplers: SamplerCache


class TinkexBackend(TrainingBackend):
    """A service, used on the event loop that opened the backend. ``config``: ``TinkexBackendSettings``."""

    name: ClassVar[str] = BACKEND
    losses: ClassVar[tuple[str, ...]] = LOSSES
    policy_losses: ClassVar[tuple[str, ...]] = tuple(POLICY_LOSSES)
    metrics: ClassVar[tuple[str, ...]] = METRICS

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(TinkexBackendSettings, dict(config or {}), backend=BACKEND)
        self._state: _OpenState | None = None
        self._retired: list[Callable[[], Awaitable[None]]] = []
        """Close functions of the addresses that a development server has left."""
        self._tokenizers: dict[str, Tokenizer] = {}
        self._runs: weakref.WeakSet[TrainingService] = weakref.WeakSet()
        self._missing_options: set[str] = set()
        # Invalid settings fail here, not at the first request.
        self._new_service()

    async def open(self) -> None:
        if self._state is None:
            self._state = self._open_state(self._new_service())

    async def close(self) -> None:
        state, self._state = self._state, None
        retired, self._retired = self._retired, []
        if state is not None:
            await state.executor.close()
        for close in retired:
            await close()
        for run in list(self._runs):
            await run.end_sessions()
        if state is not None:
            await state.samplers.clear()
            await state.service.aclose()

    @property
    def service(self) -> ServiceClient:
        """The service client. Raises CallerError when the backend is not open."""
        return self._current().service

    async def capabilities(self) -> Capabilities:
        """Return the capabilities with the service's first model. A prompt is checked against its own model."""
        server = self._current().server
        features = await server.default_features(self.tokenizer)
        return capabilities_of(await server.capabilities(), features, self._missing_options)

    async def health_check(self) -> Health:
        state = self._current()
        try:
            capabilities = await state.server.fetch()
        except CrucibleError as error:
            return Health(ok=False, reason=str(error), details={"code": error.code})
        return Health(
            ok=True,
            details={"base_url": state.service.connection.server, "models": len(capabilities.supported_models)},
        )

    async def check_prompt(self, prompt: Prompt) -> None:
        server = await self._current().server.capabilities()
        require(prompt, capabilities_of(server, ALL_FEATURES, self._missing_options))
        require_expressible(prompt, ALL_FEATURES)
        if prompt.tools or prompt.options.extended_thinking or any(map(_is_more_than_text, prompt.messages)):
            await self._resolve(prompt)

    async def complete(self, prompt: Prompt) -> Completion:
        return await self._sample(*await self._resolve(prompt), prompt)

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        for event in events_of(await self.complete(prompt)):
            yield event

    async def check_spec(self, spec: RunSpec) -> None:
        models = _trainable((await self._current().server.capabilities()).supported_models)
        if models and spec.base_model not in models:
            raise invalid(
                "base_model", spec.base_model, known_names(spec.base_model, models, are="the service trains")
            )
        if not (spec.lora.train_mlp or spec.lora.train_attn or spec.lora.train_unembed):
            raise invalid("lora", "nothing to train", "one of train_mlp, train_attn, train_unembed must be true")

    async def tokenizer(self, base_model: str) -> Tokenizer:
        if base_model not in self._tokenizers:
            server = await self._current().server.capabilities()
            models = {model.model_name: model for model in server.supported_models}
            if models and base_model not in models:
                raise invalid("base_model", base_model, f"the service has {', '.join(models)}")
            tokenizer_id = models[base_model].tokenizer_id if base_model in models else None
            self._tokenizers[base_model] = await asyncio.to_thread(tokenizer_named, tokenizer_id or base_model)
        return self._tokenizers[base_model]

    async def sampler(self, model: str) -> TokenSampler:
        state = self._current()
        models = (await state.server.capabilities()).model_names
        source = await find_model(state.service.create_rest_client(), model, models)
        # a session of its own, so that a sampler whose session has ended can be opened anew
        session = state.service.with_new_session()
        try:
            client = await new_sampling_client(session, source)
        except BaseException:
            await session.end_sessions()
            raise
        base_model = source.base_model or None
        return TinkexSampler(client, model, base_model=base_model, on_close=session.end_sessions)

    async def start(self, spec: RunSpec) -> LiveRun:
        # A session per run, so that each run can be taken over and ended separately.
        service = self.service.with_new_session()
        try:
            client = await new_run(service, spec)
            await client.probe_replay()
            if self._settings.send_ahead:
                client = await _with_known_order(client, service, spec)
            return await self._run(client, spec)
        except BaseException:
            await service.end_sessions()
            raise

    async def attach(self, ref: RunRef, *, next_seq_id: int) -> LiveRun:
        details = ref.details
        service = self.service.with_new_session()
        client = TrainingClient.attach(
            service,
            model_id=ref.run_id,
            session_id=ref.session_id,
            next_seq_id=next_seq_id,
            config=ClientConfig.model_validate(details.get("config") or {}),
        )
        replays = details.get("replays")
        if isinstance(replays, bool) and service.features.replays_seq_id is None:
            service.connection.memory.learn(replays_seq_id=replays)
        orders = details.get("orders")
        if isinstance(orders, bool) and service.features.orders_seq_id is None and self._settings.send_ahead:
            service.connection.memory.learn(orders_seq_id=orders)
        encoding = details.get("encoding")
        if encoding and service.features.request_encoding is None:
            # A replay must be byte-identical, hence in the same encoding.
            service.connection.memory.learn(request_encoding=encoding)
        try:
            await client.keep_alive()
            run = await self._run(client, RunSpec.model_validate(details["spec"]))
            health = await run.health()
        except BaseException:
            await service.end_sessions()
            raise
        if health.state is RunState.ALIVE:
            return run
        await run.close()
        kind = RunCorrupted if health.state is RunState.CORRUPTED else RunGone
        error_details: dict[str, JsonValue] = {"run_id": ref.run_id, "detected_by": "flag"}
        raise kind(f"run {ref.run_id}: {health.reason}", backend=BACKEND, details=error_details)

    async def recover(self, request: RecoveryRequest, *, observe: RecoveryObserver) -> RecoveredRun:
        try:
            recovered = await self._current().executor.recover(request, observe=observe)
        except RecoveryExhausted as error:
            if isinstance(error.__cause__, CapacityError):
                raise error.__cause__ from None
            raise
        try:
            run = await self._run(recovered.client, request.spec)
        except BaseException:
            await recovered.client.discard()
            await recovered.client.service.end_sessions()
            raise
        return RecoveredRun(run, recovered.checkpoint, recovered.optimizer_requested)

    async def check_checkpoint(self, path: str, spec: RunSpec) -> CheckpointCheck:
        return await validate(self.service.create_rest_client(), path, spec)

    async def delete_checkpoint(self, path: str) -> None:
        with contextlib.suppress(NotFound, RunGone):
            await self.service.create_rest_client().delete_checkpoint_from_tinker_path(path)

    async def keep_checkpoint(self, path: str) -> None:
        try:
            # A service without TTL expires no checkpoint.
            with contextlib.suppress(Unsupported):
                await self.service.create_rest_client().set_checkpoint_ttl_from_tinker_path(path, None)
        except RunGone as error:
            raise NotFound(error.message, backend=BACKEND, request_id=error.request_id) from error

    async def download_checkpoint(
        self, path: str, folder: Path, *, max_bytes: int, report: Callable[[int, int | None], None] = no_report
    ) -> None:
        from backends.tinkex.client.rest.download import DownloadLimit, unpack_archive

        archive = folder / ".archive.tar"
        limit = DownloadLimit(max_bytes, report)
        try:
            await self.service.create_rest_client().download_checkpoint_archive(path, archive, limit=limit)
            await asyncio.to_thread(unpack_archive, archive, folder, max_bytes=max_bytes)
        except RunGone as error:
            raise NotFound(error.message, backend=BACKEND, request_id=error.request_id) from error
        finally:
            archive.unlink(missing_ok=True)

    def _new_service(self, dev_server: str | None = None) -> ServiceClient:
        return ServiceClient.on_caller_loop(
            self._settings.api_key,
            self._settings.base_url or dev_server,
            user_metadata=self._settings.user_metadata,
            heartbeat_s=self._settings.heartbeat_s,
            no_progress_s=self._settings.no_progress_s,
            # A job that finds the service at its limit waits in the queue.
            waits_for_capacity=False,
            retry=RetryConfig(give_up_after_s=self._settings.give_up_after_s),
        )

    def _open_state(self, service: ServiceClient) -> _OpenState:
        return _OpenState(
            service,
            RecoveryExecutor(service, max_concurrent=self._settings.max_recoveries),
            CapabilityCache(service, timeout_s=self._settings.ask_within_s),
            SamplerCache(service),
        )

    def _current(self) -> _OpenState:
        """Return the open state, at the development server's new address if it has moved.

        A development server that was found by its own file may restart on another port. Runs on the old port fail.
        """
        state = self._state
        if state is None:
            raise CallerError("open the backend first: async with backend: ...", backend=BACKEND)
        service = state.service
        if self._settings.base_url is not None or not service.connection.transport.endpoint.is_local:
            return state
        url = running_dev_server()
        if url is None or url == service.connection.server or TinkexSettings().base_url:
            return state
        self._retired += [state.executor.close, state.samplers.clear, service.aclose]
        self._tokenizers.clear()
        self._state = self._open_state(self._new_service(url))
        return self._state

    async def _resolve(self, prompt: Prompt) -> tuple[ModelSource, Tokenizer]:
        """Return the weights and tokenizer for a prompt. Raises Unsupported when they lack a feature of it."""
        state = self._current()
        server = await state.server.capabilities()
        capabilities = capabilities_of(server, ALL_FEATURES, self._missing_options)
        require(prompt, capabilities)
        name = prompt.options.model or capabilities.default_model or ""
        source = await find_model(state.service.create_rest_client(), name, capabilities.models)
        tokenizer = await self.tokenizer(source.base_model)
        require(prompt, capabilities_of(server, tokenizer.features, self._missing_options))
        require_expressible(prompt, tokenizer.features)
        return source, tokenizer

    async def _sample(self, source: ModelSource, tokenizer: Tokenizer, prompt: Prompt) -> Completion:
        try:
            return await self._current().samplers.use(
                source, lambda client: sample(client, source, tokenizer, prompt)
            )
        except Unsupported as error:
            if error.details.get("field") == TOP_LOGPROBS:
                self._missing_options.add("top_logprobs")
            raise

    async def _run(self, client: TrainingClient, spec: RunSpec) -> TinkexRun:
        self._runs.add(client.service)
        tolerance = self._settings.loss_tolerance
        if tolerance is None:
            tolerance = 0.0 if await _architecture(client) == _DEV_ARCHITECTURE else _FOREIGN_TOLERANCE
        return TinkexRun(client, spec, loss_tolerance=tolerance)


async def _with_known_order(client: TrainingClient, service: ServiceClient, spec: RunSpec) -> TrainingClient:
    """Return the client, or that of another run if asking for the order has spoiled this one."""
    try:
        await client.probe_order()
    except OrderUnclear:
        await client.discard()
        return await new_run(service, spec)
    return client


async def _architecture(client: TrainingClient) -> str | None:
    try:
        return (await client.get_info()).model_data.arch
    except Unsupported:
        return None


def _trainable(models: list[SupportedModel]) -> list[str]:
    return [model.model_name for model in models if model.model_name and model.trainable is not False]


def _is_more_than_text(message: Message) -> bool:
    more = message.name or message.tool_calls or message.tool_call_id or message.thinking
    return bool(more) or not all(isinstance(part, TextPart) for part in message.parts())
