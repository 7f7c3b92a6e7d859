"""``FakeBackend``: completions, training and commands in this process, with scripted failures."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar, Final

import numpy as np
from pydantic import JsonValue

from backends.fake import commands
from backends.fake.checkpoints import FakeCheckpoints
from backends.fake.engine import FakeEngine, base_network
from backends.fake.settings import FakeSettings, scripted_error
from backends.local.answer_events import answer
from backends.local.backend import OPTIONS, LocalBackend
from backends.local.checkpoints import CheckpointPath
from backends.local.generation import Array, NextLogits, Piece, generate
from backends.local.run import HostedRun, LocalRun
from backends.local.sampler import LocalSampler
from backends.local.validation import check_lora
from backends.tiny_lm.adapter import Adapter
from backends.tiny_lm.network import BASE_MODELS, CONTEXT_LENGTH, SPAN, Network
from backends.tiny_lm.training_pass import single_threaded
from crucible.backend import Command, CommandBackend, Health
from crucible.capabilities import Capabilities
from crucible.completion import FinishReason, TokenLogprob
from crucible.errors import InvalidRequest, NotFound
from crucible.prompt import Prompt
from crucible.rendering.tokenizer import ByteTokenizer, Tokenizer
from crucible.stream import StreamEvent
from crucible.token_sampler import SamplerRef, TokenSampler
from crucible.training import LiveRun, RunFeatures, RunSpec
from crucible.values.record_reader import read_record
from crucible.values.suggestions import known_names

_MAX_RANK: Final = 256
_FEATURES: Final = RunFeatures(replays=True, sets_corrupted_flag=True)


class FakeBackend(LocalBackend[FakeEngine], CommandBackend):
    """A backend without a service. ``config``: see ``FakeSettings``."""

    name: ClassVar[str] = "fake"

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(FakeSettings, dict(config or {}), backend="fake")
        self._checkpoints = FakeCheckpoints(self.name, self._settings.folder())
        self._failures = [step.model_copy() for step in self._settings.script.fail for _ in range(step.times)]
        self._answered = 0
        self._run_count = 0

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            backend_id="fake",
            provider="fake",
            models=BASE_MODELS,
            default_model=BASE_MODELS[0],
            accepts_other_models=True,
            context_lengths=dict.fromkeys(BASE_MODELS, CONTEXT_LENGTH),
            max_context_length=CONTEXT_LENGTH,
            supports_streaming=True,
            token_streaming=True,
            supports_training=True,
            supports_forward=True,
            supports_soft_targets=True,
            supports_download=True,
            supports_logprobs=True,
            supports_n=True,
            options=OPTIONS,
            losses=self.losses,
            commands=tuple(commands.COMMANDS),
            metadata={"adapter_max_rank": _MAX_RANK},
        )

    async def health_check(self) -> Health:
        return Health(ok=True, details={"home": str(self._settings.folder())})

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        began = time.monotonic()
        await self.check_prompt(prompt)
        self._fail_as_scripted()
        await asyncio.sleep(self._settings.script.delay_ms / 1000)
        name = prompt.options.model or BASE_MODELS[0]
        tokens = ByteTokenizer().render_prompt(
            [{"role": message.role.in_templates, "content": message.text()} for message in prompt.conversation()]
        )
        network, adapter, _ = await self._model(name)
        events = answer(
            prompt,
            model=name,
            prompt_tokens=len(tokens),
            pieces=lambda index: self._pieces(_next_logprobs(network, adapter), tokens, prompt, index),
            began=began,
        )
        async for event in events:
            yield event

    async def check_spec(self, spec: RunSpec) -> None:
        if spec.base_model not in BASE_MODELS:
            raise InvalidRequest.of(
                "base_model",
                spec.base_model,
                known_names(spec.base_model, BASE_MODELS, are="allowed are"),
                backend="fake",
            )
        check_lora(spec.lora, backend="fake")
        if spec.lora.rank > _MAX_RANK:
            raise InvalidRequest.of("lora.rank", spec.lora.rank, f"at most {_MAX_RANK}", backend="fake")

    async def tokenizer(self, base_model: str) -> Tokenizer:
        await self.check_spec(RunSpec(base_model=base_model))
        return ByteTokenizer()

    async def sampler(self, model: str) -> TokenSampler:
        network, adapter, base_model = await self._model(model)

        async def before() -> None:
            self._fail_as_scripted()
            await asyncio.sleep(self._settings.script.delay_ms / 1000)

        ref = SamplerRef(backend=self.name, model=model)
        return LocalSampler(ref, lambda: _next_logprobs(network, adapter), base_model=base_model, before=before)

    async def start(self, spec: RunSpec) -> LiveRun:
        await self.check_spec(spec)
        return self._new_run(FakeEngine(spec))

    async def check_command(self, command: Command) -> None:
        commands.read_command(command)

    async def execute(self, command: Command) -> dict[str, JsonValue]:
        return await commands.execute(command, self._settings)

    def _new_run(self, engine: FakeEngine) -> LiveRun:
        corruption = self._settings.script.corrupt
        if corruption is not None and self._run_count < corruption.runs:
            engine.corruption = corruption
        self._run_count += 1
        return super()._new_run(engine)

    def _drive(self, run: HostedRun, next_seq_id: int = 1) -> LiveRun:
        delay_s = self._settings.script.delay_ms / 1000
        return LocalRun(
            run,
            self._checkpoints,
            features=_FEATURES,
            next_seq_id=next_seq_id,
            delay_s=delay_s,
            open_sampler=self.sampler,
        )

    def _fail_as_scripted(self) -> None:
        if self._failures:
            failure = self._failures.pop(0)
            raise scripted_error(failure.code, "completion", failure.retry_after_ms)

    async def _model(self, name: str) -> tuple[Network, Adapter | None, str]:
        """The network and the adapter to sample from, and the name of the base model, which has no adapter."""
        if name in BASE_MODELS:
            return base_network(name), None, name
        if not name.startswith("fake://"):
            raise InvalidRequest.of(
                "options.model",
                name,
                f"allowed are {', '.join(BASE_MODELS)}, and paths of checkpoints (fake://RUN/weights/NAME)",
                backend="fake",
            )
        try:
            path = CheckpointPath.parse(name, self.name)
            engine, info = await asyncio.to_thread(self._checkpoints.load, path, optimizer=False)
        except NotFound as exc:
            raise InvalidRequest.of("options.model", name, exc.message, backend="fake") from exc
        return engine.network, engine.adapter, info.spec.base_model

    async def _pieces(
        self, forward: NextLogits, tokens: Sequence[int], prompt: Prompt, index: int
    ) -> AsyncIterator[Piece]:
        for piece in self._scripted() or generate(forward, tokens, prompt.options, ByteTokenizer(), index):
            yield piece
            await asyncio.sleep(0)

    def _scripted(self) -> list[Piece]:
        answers = self._settings.script.answers
        if not answers:
            return []
        text = answers[self._answered % len(answers)]
        self._answered += 1
        tokens = tuple(ByteTokenizer().encode(text))
        logprobs = tuple(
            TokenLogprob(token=ByteTokenizer().decode([token]), token_id=token, logprob=0.0) for token in tokens
        )
        return [Piece(text, tokens, logprobs, FinishReason.STOP)]


def _next_logprobs(network: Network, adapter: Adapter | None) -> NextLogits:
    """The model as a function of the new tokens. It retains as much context as the network reads."""
    context: list[int] = []
    low_rank = {} if adapter is None else adapter.low_rank

    def forward(new: Sequence[int]) -> Array:
        context[:] = [*context, *new][-SPAN:]
        with single_threaded(), np.errstate(all="ignore"):
            trace = network.forward(np.asarray(context, dtype=np.int64), low_rank, rows=1)
        row: Array = trace.logprobs[0].astype(np.float64)
        return row

    return forward
