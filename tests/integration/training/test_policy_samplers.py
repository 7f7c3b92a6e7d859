"""Samplers of a run's weights: which weights a restored run samples from, and that deleted ones are forgotten
first."""

import asyncio
from typing import Any

import pytest

from backends.fake import FakeBackend
from crucible.errors import NotFound
from crucible.training import RunRef
from nsai_work.journal import RemoteRun, ResumeMode
from nsai_work.journal.rollouts import PolicyRecord
from nsai_work.training.rollouts.policies import PolicySamplers
from tests.integration.training.journal_in_memory import MemoryStore

pytestmark = pytest.mark.anyio


class Sampled:
    """A run that opens samplers, and notes on which weights."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def sampler(self, path: str, **arguments: Any) -> Any:
        """Note the path; open a base model."""
        del arguments
        self.opened.append(path)
        return await FakeBackend().sampler("tiny-lm")


class Deleting(FakeBackend):
    """A backend that notes deletions, whose owner dies at the first."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self._store = store
        self.known: list[list[int]] = []

    async def delete_checkpoint(self, path: str) -> None:
        """Note what the journal has at this moment."""
        self.known.append([step for _, step in self._store.policies])
        raise NotFound(path)


def record(generation: int, from_step: int) -> RemoteRun:
    """A run."""
    ref = RunRef(backend="fake", run_id=f"run-{generation}")
    return RemoteRun(generation=generation, ref=ref, from_step=from_step, resume=ResumeMode.UNVERIFIED)


def stored(*policies: tuple[int, int]) -> MemoryStore:
    """A journal with weights, by generation and step."""
    store = MemoryStore()
    for generation, step in policies:
        path = f"g{generation}-s{step}"
        store.policies[generation, step] = PolicyRecord(step=step, generation=generation, path=path)
    return store


async def test_a_restored_run_samples_from_the_weights_that_it_saves() -> None:
    """Those of an earlier run may be gone; only the steps before its own are sampled from them."""
    store, run = stored((1, 2), (1, 3)), Sampled()
    samplers = PolicySamplers(store.claim(), FakeBackend(), records_sequences=False)
    await samplers.connect(run, record(2, from_step=3))  # type: ignore[arg-type]
    await samplers.sampler(2)
    waiting = asyncio.create_task(samplers.sampler(3))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    samplers.saved(PolicyRecord(step=3, generation=2, path="g2-s3"))
    await waiting
    assert run.opened == ["g1-s2", "g2-s3"]


async def test_weights_are_forgotten_before_they_are_deleted() -> None:
    """An owner that dies in between finds none that are gone. Those of earlier runs are deleted too."""
    store = stored((1, 3), (2, 3), (2, 4))
    backend = Deleting(store)
    samplers = PolicySamplers(store.claim(), backend, records_sequences=False)
    await samplers.connect(Sampled(), record(2, from_step=3))  # type: ignore[arg-type]
    await samplers.release([step for step in samplers.known() if step < 4])
    assert backend.known == [[3, 4], [4]]
    assert list(store.policies) == [(2, 4)]


async def test_weights_that_are_gone_are_not_waited_for() -> None:
    """Those of the run's own steps may come; those of steps before it are there, or never again."""
    store = stored((1, 2))
    samplers = PolicySamplers(store.claim(), FakeBackend(), records_sequences=False)
    await samplers.connect(Sampled(), record(2, from_step=3))  # type: ignore[arg-type]
    assert [step for step in range(5) if samplers.has(step)] == [2, 3, 4]
    with pytest.raises(NotFound, match="the weights after step 1, to sample from, are deleted"):
        await samplers.sampler(1)
