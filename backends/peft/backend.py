"""``PeftBackend``: LoRA training and completions on this machine."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, TypeVar

from pydantic import JsonValue

from backends.local.answer_events import answer
from backends.local.backend import OPTIONS, LocalBackend
from backends.local.checkpoints import CheckpointPath
from backends.local.generation import Array, NextLogits, Piece, generate
from backends.local.run import HostedRun, LocalRun
from backends.local.sampler import LocalSampler
from backends.local.validation import check_lora
from backends.peft.bases import Bases, import_torch
from backends.peft.checkpoints import PeftCheckpoints
from backends.peft.engine import PeftEngine
from backends.peft.settings import BACKEND, PeftSettings
from crucible.backend import Health
from crucible.capabilities import Capabilities
from crucible.errors import CallerError, CrucibleError, InvalidRequest, NotFound
from crucible.prompt import Prompt
from crucible.rendering.tokenizer import Tokenizer
from crucible.stream import StreamEvent
from crucible.token_sampler import SamplerRef, TokenSampler
from crucible.training import LiveRun, RunFeatures, RunSpec
from crucible.values.record_reader import read_record

T = TypeVar("T")

_GPU_TOLERANCE: Final = 1e-3


class PeftBackend(LocalBackend[PeftEngine]):
    """A backend on torch. All computation runs in one thread, in order of submission.

    ``config``: see ``PeftSettings``.
    """

    name: ClassVar[str] = BACKEND
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "safetensors")

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(PeftSettings, dict(config or {}), backend=BACKEND)
        self._settings.sources()
        self._bases = Bases(self._settings)
        self._checkpoints = PeftCheckpoints(self._settings, self._bases)
        self._loaded: OrderedDict[str, tuple[Any, str]] = OrderedDict()
        self._executor: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="peft")
            # in the thread, because the first import takes seconds
            torch = await self._compute(import_torch)
            if self._settings.threads is not None:
                torch.set_num_threads(self._settings.threads)

    async def close(self) -> None:
        executor, self._executor = self._executor, None
        self._loaded.clear()
        if executor is not None:
            await asyncio.to_thread(executor.shutdown, wait=True)

    async def capabilities(self) -> Capabilities:
        models = self._bases.names()
        return Capabilities(
            backend_id=BACKEND,
            provider=BACKEND,
            models=models,
            default_model=models[0],
            accepts_other_models=True,
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
        )

    async def health_check(self) -> Health:
        try:
            torch, device = import_torch(), self._bases.device()
        except CrucibleError as exc:
            return Health(ok=False, reason=exc.message)
        return Health(ok=True, details={"device": device, "torch": torch.__version__})

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        began = time.monotonic()
        await self.check_prompt(prompt)
        name = prompt.options.model or self._bases.names()[0]
        model, base_model = await self._model(name)
        tokenizer = await self.tokenizer(base_model)
        tokens = tokenizer.render_prompt(
            [{"role": message.role.in_templates, "content": message.text()} for message in prompt.conversation()]
        )

        async def pieces(index: int) -> AsyncIterator[Piece]:
            generator = generate(_next_logits(model), tokens, prompt.options, tokenizer, index)
            while (piece := await self._compute(lambda: next(generator, None))) is not None:
                yield piece

        async for event in answer(prompt, model=name, prompt_tokens=len(tokens), pieces=pieces, began=began):
            yield event

    async def check_spec(self, spec: RunSpec) -> None:
        self._bases.source(spec.base_model)
        check_lora(spec.lora, backend=BACKEND)

    async def tokenizer(self, base_model: str) -> Tokenizer:
        return await self._compute(lambda: self._bases.tokenizer(base_model))

    async def sampler(self, model: str) -> TokenSampler:
        loaded, base_model = await self._model(model)
        ref = SamplerRef(backend=self.name, model=model)
        return LocalSampler(ref, lambda: _next_logits(loaded), base_model=base_model, executor=self._opened)

    async def start(self, spec: RunSpec) -> LiveRun:
        await self.check_spec(spec)
        return self._new_run(await self._compute(lambda: self._new_engine(spec)))

    def _new_engine(self, spec: RunSpec) -> PeftEngine:
        return PeftEngine(spec, self._bases, self._settings.lora_alpha)

    def _drive(self, run: HostedRun, next_seq_id: int = 1) -> LiveRun:
        tolerance = 0.0 if self._bases.device() == "cpu" else _GPU_TOLERANCE
        features = RunFeatures(replays=True, sets_corrupted_flag=True, loss_tolerance=tolerance)
        return LocalRun(
            run,
            self._checkpoints,
            features=features,
            next_seq_id=next_seq_id,
            executor=self._opened,
            open_sampler=self.sampler,
        )

    async def _model(self, name: str) -> tuple[Any, str]:
        """The model to sample from, and the name of its base model. The most recently used models stay loaded."""
        if name not in self._loaded:
            self._loaded[name] = await self._compute(lambda: self._load(name))
        self._loaded.move_to_end(name)
        while len(self._loaded) > self._settings.kept_models:
            self._loaded.popitem(last=False)
        return self._loaded[name]

    def _load(self, name: str) -> tuple[Any, str]:
        try:
            if name.startswith(f"{BACKEND}://"):
                engine, info = self._checkpoints.load(CheckpointPath.parse(name, BACKEND), optimizer=False)
                return engine.model.eval(), info.spec.base_model
            return self._bases.model(name).eval(), name
        except (NotFound, InvalidRequest) as exc:
            raise InvalidRequest.of("options.model", name, exc.message, backend=BACKEND) from exc

    async def _compute(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._opened, work)

    @property
    def _opened(self) -> ThreadPoolExecutor:
        if self._executor is None:
            raise CallerError("open the backend first: async with backend: ...", backend=BACKEND)
        return self._executor


def _next_logits(model: Any) -> NextLogits:
    """The model as a function of the new tokens, with a key-value cache."""
    torch = import_torch()
    cache: Any = None

    def forward(new: Sequence[int]) -> Array:
        nonlocal cache
        with torch.inference_mode():
            tokens = torch.as_tensor([list(new)], device=model.device)
            output = model(input_ids=tokens, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            row: Array = output.logits[0, -1].double().cpu().numpy()
        return row

    return forward
