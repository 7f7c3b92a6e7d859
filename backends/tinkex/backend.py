"""``TinkexBackend``: completions and training through any service that speaks the Tinker API."""

import asyncio
import contextlib
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import JsonValue

from backends.tinkex.backend_settings import TinkexBackendSettings
from backends.tinkex.capabilities import ALL_FEATURES, LOSSES, capabilities_of, require_expressible
from backends.tinkex.client.service import ServiceClient
from backends.tinkex.client.training import TrainingClient
from backends.tinkex.discovery import running_dev_server
from backends.tinkex.errors import BACKEND, invalid
from backends.tinkex.models import ModelSource, find_model
from backends.tinkex.recovery import RecoveryExecutor, validate
from backends.tinkex.render import tokenizer_named
from backends.tinkex.run import TinkexRun
from backends.tinkex.sampler import TOP_LOGPROBS, sample
from backends.tinkex.settings import TinkexSettings
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.server_capabilities import ServerCapabilities, SupportedModel
from backends.tinkex.wire.retry import RetryConfig
from crucible.backend import Health, TrainingBackend
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import (
    BackendUnavailable,
    CallerError,
    CrucibleError,
    NotFound,
    RunCorrupted,
    RunGone,
    Unsupported,
)
from crucible.parsing import read_record
from crucible.prompt import Message, Prompt, TextPart
from crucible.recovery import RecoveredRun, RecoveryObserver, RecoveryRequest
from crucible.requirements import require
from crucible.stream import StreamEvent, events_of
from crucible.tokenizer import ChatFeatures, Tokenizer
from crucible.training import CheckpointCheck, LiveRun, RunRef, RunSpec, RunState

if TYPE_CHECKING:
    from backends.tinkex.client.sampling import SamplingClient
    from backends.tinkex.client.training_service import TrainingService

_DEV_ARCHITECTURE: Final = "tiny-lm"
_FOREIGN_TOLERANCE: Final = 1e-3
_SAMPLERS_KEPT: Final = 64
_OFFER_HOLDS_S: Final = 30.0


class TinkexBackend(TrainingBackend):
    """One service, reached on the event loop that opened the backend. ``config``: ``TinkexBackendSettings``."""

    name: ClassVar[str] = BACKEND
    losses: ClassVar[tuple[str, ...]] = LOSSES

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(TinkexBackendSettings, dict(config or {}), backend=BACKEND)
        self._service: ServiceClient | None = None
        self._executor: RecoveryExecutor | None = None
        self._tokenizers: dict[str, Tokenizer] = {}
        self._samplers: OrderedDict[str, SamplingClient] = OrderedDict()
        self._sampling: ServiceClient | None = None
        self._asking = asyncio.Lock()
        self._offer: tuple[float, ServerCapabilities] | None = None
        self._runs: weakref.WeakSet[TrainingService] = weakref.WeakSet()
        self._left: list[Callable[[], Awaitable[None]]] = []
        self._features: dict[str, tuple[float, ChatFeatures]] = {}
        self._lacking: set[str] = set()
        # Settings are wrong at once, not when the first request is sent.
        self._new_service()

    async def open(self) -> None:
        if self._service is None:
            self._asking, self._offer = asyncio.Lock(), None
            self._use(self._new_service())

    async def close(self) -> None:
        service, self._service = self._service, None
        sampling, self._sampling = self._sampling, None
        left, self._left = self._left, []
        self._samplers.clear()
        if self._executor is not None:
            await self._executor.close()
        for close in left:
            await close()
        for session in [*self._runs, *([sampling] if sampling is not None else [])]:
            await session.end_sessions()
        if service is not None:
            await service.aclose()

    @property
    def service(self) -> ServiceClient:
        """The client underneath. Raises CallerError when the backend is not open."""
        if self._service is None:
            raise CallerError("open the backend first: async with backend: ...", backend=BACKEND)
        self._follow_dev_server(self._service)
        return self._service

    async def capabilities(self) -> Capabilities:
        """What the service can do with its first model. A prompt is checked against the model that it names."""
        served = await self._served()
        return capabilities_of(served, await self._features_of_default(served), self._lacking)

    async def health_check(self) -> Health:
        try:
            served = await self._ask_what_is_served()
        except CrucibleError as error:
            return Health(ok=False, reason=str(error), details={"code": error.code})
        return Health(
            ok=True,
            details={
                "base_url": self.service.connection.server,
                "models": len(served.supported_models),
            },
        )

    async def check_prompt(self, prompt: Prompt) -> None:
        served = await self._served()
        require(prompt, capabilities_of(served, ALL_FEATURES, self._lacking))
        require_expressible(prompt, ALL_FEATURES)
        if prompt.tools or prompt.options.extended_thinking or any(map(_is_more_than_text, prompt.messages)):
            await self._prepared(prompt)

    async def complete(self, prompt: Prompt) -> Completion:
        source, tokenizer = await self._prepared(prompt)
        try:
            return await self._sampled(source, tokenizer, prompt)
        except RunGone:
            # The session that we sample in has ended: it was not heard of for too long. A sample changes nothing.
            await self._forget_samplers()
            return await self._sampled(source, tokenizer, prompt)

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        for event in events_of(await self.complete(prompt)):
            yield event

    async def check_spec(self, spec: RunSpec) -> None:
        models = _trainable((await self._served()).supported_models)
        if models and spec.base_model not in models:
            raise invalid("base_model", spec.base_model, f"the service trains {', '.join(models)}")
        if not (spec.lora.train_mlp or spec.lora.train_attn or spec.lora.train_unembed):
            raise invalid("lora", "nothing to train", "one of train_mlp, train_attn, train_unembed must be true")

    async def tokenizer(self, base_model: str) -> Tokenizer:
        if base_model not in self._tokenizers:
            served = await self._served()
            models = {model.model_name: model for model in served.supported_models}
            if models and base_model not in models:
                raise invalid("base_model", base_model, f"the service has {', '.join(models)}")
            named = models[base_model].tokenizer_id if base_model in models else None
            self._tokenizers[base_model] = await asyncio.to_thread(tokenizer_named, named or base_model)
        return self._tokenizers[base_model]

    async def start(self, spec: RunSpec) -> LiveRun:
        # Each run has a session of its own, so that it can be taken over, and can end, alone.
        service = self.service.with_new_session()
        lora = spec.lora
        try:
            client = await service.create_lora_training_client_async(
                spec.base_model,
                rank=lora.rank,
                seed=lora.seed,
                train_mlp=lora.train_mlp,
                train_attn=lora.train_attn,
                train_unembed=lora.train_unembed,
                user_metadata=spec.user_metadata,
            )
            await client.probe_replay()
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
        encoding = details.get("encoding")
        if encoding and service.features.request_encoding is None:
            # A repeat is the same bytes, so it is in the same encoding.
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
        seen: dict[str, JsonValue] = {"run_id": ref.run_id, "detected_by": "flag"}
        raise kind(f"run {ref.run_id}: {health.reason}", backend=BACKEND, details=seen)

    async def recover(self, request: RecoveryRequest, *, observe: RecoveryObserver) -> RecoveredRun:
        service = self.service
        assert self._executor is not None, f"{service} has one"
        recovered = await self._executor.recover(request, observe=observe)
        run = await self._run(recovered.client, request.spec)
        return RecoveredRun(run, recovered.checkpoint, recovered.optimizer_requested)

    async def check_checkpoint(self, path: str, spec: RunSpec) -> CheckpointCheck:
        return await validate(self.service.create_rest_client(), path, spec, datetime.now(UTC))

    async def delete_checkpoint(self, path: str) -> None:
        with contextlib.suppress(NotFound, RunGone):
            await self.service.create_rest_client().delete_checkpoint_from_tinker_path(path)

    async def keep_checkpoint(self, path: str) -> None:
        try:
            # a service that knows no TTL lets nothing expire
            with contextlib.suppress(Unsupported):
                await self.service.create_rest_client().set_checkpoint_ttl_from_tinker_path(path, None)
        except RunGone as error:
            raise NotFound(error.message, backend=BACKEND, request_id=error.request_id) from error

    def _new_service(self, found: str | None = None) -> ServiceClient:
        return ServiceClient.on_caller_loop(
            self._settings.api_key,
            self._settings.base_url or found,
            user_metadata=self._settings.user_metadata,
            heartbeat_s=self._settings.heartbeat_s,
            no_progress_s=self._settings.no_progress_s,
            retry=RetryConfig(give_up_after_s=self._settings.give_up_after_s),
        )

    def _use(self, service: ServiceClient) -> None:
        self._service = service
        self._executor = RecoveryExecutor(service, max_concurrent=self._settings.max_recoveries)

    def _follow_dev_server(self, service: ServiceClient) -> None:
        """Where nothing but its own file led to a development server, go where that file leads now: it may have
        been started again on another port. Runs on the old one fail by themselves."""
        if self._settings.base_url is not None or not service.connection.transport.endpoint.is_local:
            return
        url = running_dev_server()
        if url is None or url == service.connection.server or TinkexSettings().base_url:
            return
        if self._executor is not None:
            self._left.append(self._executor.close)
        if self._sampling is not None:
            self._left.append(self._sampling.end_sessions)
        self._left.append(service.aclose)
        self._use(self._new_service(url))
        self._offer, self._sampling = None, None
        self._samplers.clear()
        self._tokenizers.clear()
        self._features.clear()

    async def _prepared(self, prompt: Prompt) -> tuple[ModelSource, Tokenizer]:
        """What to sample from and its tokenizer, once nothing in the prompt is beyond them."""
        served = await self._served()
        offer = capabilities_of(served, ALL_FEATURES, self._lacking)
        require(prompt, offer)
        name = prompt.options.model or offer.default_model or ""
        source = await find_model(self.service.create_rest_client(), name, offer.models)
        tokenizer = await self.tokenizer(source.base_model)
        require(prompt, capabilities_of(served, tokenizer.features, self._lacking))
        require_expressible(prompt, tokenizer.features)
        return source, tokenizer

    async def _sampled(self, source: ModelSource, tokenizer: Tokenizer, prompt: Prompt) -> Completion:
        try:
            return await sample(await self._sampler(source), source, tokenizer, prompt)
        except Unsupported as error:
            if error.details.get("field") == TOP_LOGPROBS:
                self._lacking.add("top_logprobs")
            raise

    async def _features_of_default(self, served: ServerCapabilities) -> ChatFeatures:
        """Those of the first model's template; none where its tokenizer cannot be had here and now."""
        name = next(iter(served.model_names), None)
        if name is None:
            return ChatFeatures()
        known = self._features.get(name)
        if known is None or time.monotonic() - known[0] > _OFFER_HOLDS_S:
            try:
                async with asyncio.timeout(self._settings.ask_within_s):
                    features = (await self.tokenizer(name)).features
            except (CrucibleError, TimeoutError):
                features = ChatFeatures()
            known = self._features[name] = (time.monotonic(), features)
        return known[1]

    async def _served(self) -> ServerCapabilities:
        """What the service offers, as it said lately. Raises BackendUnavailable soon when it is away: people wait
        for this."""
        async with self._asking:
            if self._offer is None or time.monotonic() - self._offer[0] > _OFFER_HOLDS_S:
                self._offer = (time.monotonic(), await self._ask_what_is_served())
            return self._offer[1]

    async def _ask_what_is_served(self) -> ServerCapabilities:
        limit = self._settings.ask_within_s
        try:
            async with asyncio.timeout(limit):
                return await self.service.get_server_capabilities()
        except TimeoutError as error:
            raise BackendUnavailable(
                f"no answer from {self.service.connection.server} within {limit:g} s", backend=BACKEND
            ) from error

    async def _run(self, client: TrainingClient, spec: RunSpec) -> TinkexRun:
        self._runs.add(client.service)
        tolerance = self._settings.loss_tolerance
        if tolerance is None:
            info = await client.get_info()
            tolerance = 0.0 if info.model_data.arch == _DEV_ARCHITECTURE else _FOREIGN_TOLERANCE
        return TinkexRun(client, spec, loss_tolerance=tolerance)

    async def _sampler(self, source: ModelSource) -> "SamplingClient":
        key = source.path or source.base_model
        if key not in self._samplers:
            if self._sampling is None:
                self._sampling = self.service.with_new_session()
            base_model = None if source.path else source.base_model
            try:
                made = await self._sampling.create_sampling_client_async(source.checkpoint, base_model)
            except NotFound as error:
                raise invalid("options.model", source.name, error.message) from error
            self._samplers[key] = made
            while len(self._samplers) > _SAMPLERS_KEPT:
                self._samplers.popitem(last=False)
        return self._samplers[key]

    async def _forget_samplers(self) -> None:
        sampling, self._sampling = self._sampling, None
        self._samplers.clear()
        if sampling is not None:
            await sampling.end_sessions()


def _trainable(models: list[SupportedModel]) -> list[str]:
    return [model.model_name for model in models if model.model_name and model.trainable is not False]


def _is_more_than_text(message: Message) -> bool:
    more = message.name is not None or message.tool_calls or message.tool_call_id is not None
    return bool(more) or not all(isinstance(part, TextPart) for part in message.parts())
