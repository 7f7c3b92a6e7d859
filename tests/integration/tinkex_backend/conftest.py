"""A development server of each test's own, and the pieces to train on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible.rendering.tokenizer import ByteTokenizer
from crucible.training import (
    Datum,
    IntentKind,
    LiveRun,
    LoraSpec,
    OptimizerSpec,
    RunSpec,
    SaveResult,
    StepRequest,
)


def _datum(question: str, answer: str) -> Datum:
    talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    example = ByteTokenizer().render_example(talk)
    return Datum(example.tokens[:-1], {"target_tokens": example.tokens[1:], "weights": example.weights[1:]})


@dataclass(frozen=True)
class Training:
    """A small training that every test can make."""

    spec: RunSpec = field(default_factory=lambda: RunSpec(base_model="tiny-lm", lora=LoraSpec(rank=4, seed=0)))
    batch: Sequence[Datum] = field(
        default_factory=lambda: [_datum("Who barks?", "The dog barks."), _datum("Who purrs?", "The cat purrs.")]
    )

    def request(self, number: int) -> StepRequest:
        """The optimizer step of that number."""
        return StepRequest(number, self.batch, OptimizerSpec(learning_rate=1e-2))

    async def steps(self, run: LiveRun, first: int, count: int) -> list[float]:
        """The losses of ``count`` steps, sent one after the other without waiting."""
        numbers = range(first, first + count)
        pending = [await run.send(run.prepare_step(self.request(number))) for number in numbers]
        return [(await result.result()).loss for result in pending]

    async def save(self, run: LiveRun, name: str, step: int, ttl_s: int | None = None) -> SaveResult:
        """A saved training state."""
        prepared = run.prepare_save(name, step=step, kind=IntentKind.SAVE_STATE, ttl_s=ttl_s)
        return await (await run.send(prepared)).result()

    async def save_sampler(self, run: LiveRun, name: str, step: int) -> SaveResult:
        """Saved weights to sample from."""
        prepared = run.prepare_save(name, step=step, kind=IntentKind.SAVE_SAMPLER)
        return await (await run.send(prepared)).result()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DevServer]:
    """A server that nothing else uses."""
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:
        yield server


@pytest.fixture
def training() -> Training:
    """What to train."""
    return Training()


@pytest.fixture
def backend(server: DevServer) -> TinkexBackend:
    """A backend for the server, not yet opened, and impatient."""
    return TinkexBackend(
        {"base_url": server.url, "api_key": "tml-dev", "give_up_after_s": 0.5, "ask_within_s": 2.0}
    )
