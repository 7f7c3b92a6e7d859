"""``PeftBackend``: trains and completes on this machine."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, TypeVar

from pydantic import JsonValue

from backends.local.answer_events import answer
from backends.local.checkpoints import CheckpointPath
from backends.local.generation import Array, Continue, Piece, generate
from backends.local.recovery import LocalRecovery, check
from backends.local.run import HOSTED_RUNS, HostedRun, LocalRun
from backends.local.validation import LOSSES, check_lora
from backends.peft.bases import Bases, import_torch
from backends.peft.checkpoints import PeftCheckpoints
from backends.peft.engine import PeftEngine
from backends.peft.settings import BACKEND, PeftSettings
from crucible.backend import Health, TrainingBackend
from crucible.capabilities import Capabilities
from crucible.completion import Completion
from crucible.errors import CallerError, CrucibleError, InvalidRequest, NotFound, RunCorrupted, RunGone
from crucible.parsing import read_record
from crucible.prompt import Prompt
from crucible.recovery import RecoveredRun, RecoveryObserver, RecoveryRequest
from crucible.stream import StreamEvent, collect
from crucible.tokenizer import Tokenizer
from crucible.training import CheckpointCheck, LiveRun, RunFeatures, RunRef, RunSpec

T = TypeVar("T")

_GPU_TOLERANCE: Final = 1e-3


class PeftBackend(TrainingBackend):
    """All computing is done in one thread, in the order in which it was asked for. ``config``: ``PeftSettings``."""

    name: ClassVar[str] = BACKEND
    losses: ClassVar[tuple[str, ...]] = LOSSES
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "safetensors")

    def __init__(self, config: Mapping[str, JsonValue] | None = None) -> None:
        self._settings = read_record(PeftSettings, dict(config or {}), backend=BACKEND)
        self._settings.places()
        self._bases = Bases(self._settings)
        self._store = PeftCheckpoints(self._settings, self._bases)
        self._loaded: OrderedDict[str, tuple[Any, str]] = OrderedDict()
        self._executor: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="peft")
            # The first import takes seconds.
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
            supports_logprobs=True,
            supports_n=True,
            options=("temperature", "max_tokens", "top_p", "top_k", "stop", "seed", "top_logprobs"),
            losses=self.losses,
        )

    async def health_check(self) -> Health:
        try:
            torch, device = import_torch(), self._bases.device()
        except CrucibleError as exc:
            return Health(ok=False, reason=exc.message)
        return Health(ok=True, details={"device": device, "torch": torch.__version__})

    async def complete(self, prompt: Prompt) -> Completion:
        return await collect(self.stream(prompt))

    async def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        began = time.monotonic()
        await self.check_prompt(prompt)
        name = prompt.options.model or self._bases.names()[0]
        model, base_model = await self._model(name)
        tokenizer = await self.tokenizer(base_model)
        tokens = tokenizer.render_prompt(
            [{"role": message.role.value, "content": message.text()} for message in prompt.conversation()]
        )

        async def pieces(index: int) -> AsyncIterator[Piece]:
            made = generate(_following(model), tokens, prompt.options, tokenizer, index)
            while (piece := await self._compute(lambda: next(made, None))) is not None:
                yield piece

        async for event in answer(prompt, model=name, prompt_tokens=len(tokens), pieces=pieces, began=began):
            yield event

    async def check_spec(self, spec: RunSpec) -> None:
        self._bases.place(spec.base_model)
        check_lora(spec.lora, backend=BACKEND)

    async def tokenizer(self, base_model: str) -> Tokenizer:
        return await self._compute(lambda: self._bases.tokenizer(base_model))

    async def start(self, spec: RunSpec) -> LiveRun:
        await self.check_spec(spec)
        return self._new_run(await self._compute(lambda: self._new_engine(spec)))

    async def attach(self, ref: RunRef, *, next_seq_id: int) -> LiveRun:
        run = HOSTED_RUNS.get(ref.run_id)
        if run is None:
            raise RunGone(f"run {ref.run_id} lived in another process, or was closed", backend=BACKEND)
        if run.engine.corrupted:
            raise RunCorrupted(f"run {ref.run_id} is corrupted", backend=BACKEND)
        return self._drive(run, next_seq_id)

    async def recover(self, request: RecoveryRequest, *, observe: RecoveryObserver) -> RecoveredRun:
        return await LocalRecovery(request, self._store, observe, self._new_run).run()

    async def check_checkpoint(self, path: str, spec: RunSpec) -> CheckpointCheck:
        return check(path, spec, self._store)

    async def delete_checkpoint(self, path: str) -> None:
        await asyncio.to_thread(self._store.delete, CheckpointPath.parse(path, BACKEND))

    async def keep_checkpoint(self, path: str) -> None:
        await asyncio.to_thread(self._store.keep, CheckpointPath.parse(path, BACKEND))

    def _new_engine(self, spec: RunSpec) -> PeftEngine:
        return PeftEngine(spec, self._bases, self._settings.lora_alpha)

    def _new_run(self, engine: PeftEngine) -> LiveRun:
        return self._drive(HOSTED_RUNS.new(engine, BACKEND))

    def _drive(self, run: HostedRun, next_seq_id: int = 1) -> LiveRun:
        tolerance = 0.0 if self._bases.device() == "cpu" else _GPU_TOLERANCE
        features = RunFeatures(
            replays=True, restores_optimizer=True, sets_corrupted_flag=True, loss_tolerance=tolerance
        )
        return LocalRun(run, self._store, features=features, next_seq_id=next_seq_id, executor=self._opened)

    async def _model(self, name: str) -> tuple[Any, str]:
        """A model to sample from, and the name of its base model; the latest few stay loaded."""
        if name not in self._loaded:
            self._loaded[name] = await self._compute(lambda: self._load(name))
        self._loaded.move_to_end(name)
        while len(self._loaded) > self._settings.kept_models:
            self._loaded.popitem(last=False)
        return self._loaded[name]

    def _load(self, name: str) -> tuple[Any, str]:
        try:
            if name.startswith(f"{BACKEND}://"):
                engine, info = self._store.load(CheckpointPath.parse(name, BACKEND), optimizer=False)
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


def _following(model: Any) -> Continue:
    """The model with its memory of what it has read."""
    torch = import_torch()
    memory: Any = None

    def forward(new: Sequence[int]) -> Array:
        nonlocal memory
        with torch.inference_mode():
            tokens = torch.as_tensor([list(new)], device=model.device)
            said = model(input_ids=tokens, past_key_values=memory, use_cache=True)
            memory = said.past_key_values
            row: Array = said.logits[0, -1].double().cpu().numpy()
        return row

    return forward
