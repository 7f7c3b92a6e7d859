"""Samplers of the weights that a run has saved after its steps."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from crucible.backend import TrainingBackend
from crucible.errors import CrucibleError, NotFound
from crucible.token_sampler import TokenSampler
from crucible.training import LiveRun
from nsai_work.journal import Journal, RemoteRun
from nsai_work.journal.rollouts import PolicyRecord


@dataclass(slots=True)
class _Weights:
    """Weights after a step, as far as they are saved, and the sampler on them."""

    policy: PolicyRecord | None = None
    replaced: list[PolicyRecord] = field(default_factory=list)
    sampler: TokenSampler | None = None
    saved: asyncio.Event = field(default_factory=asyncio.Event)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class PolicySamplers:
    """The samplers of a job by step: each opened once, on the newest weights of its step.

    ``records_sequences``: the service records what is sampled, for training on the run.
    """

    def __init__(self, journal: Journal, backend: TrainingBackend, *, records_sequences: bool) -> None:
        self._journal = journal
        self._backend = backend
        self._records_sequences = records_sequences
        self._run: LiveRun | None = None
        self._weights: dict[int, _Weights] = {}
        self._from_step = 0

    async def connect(self, run: LiveRun, record: RemoteRun) -> None:
        """Sample in the session of another run from now on. Nothing is being sampled.

        The run saves the weights of all its steps itself; those of earlier runs are used for the steps before.
        """
        await self.close()
        self._run = run
        self._weights = {}
        self._from_step = record.from_step
        for policy in await self._journal.policies():
            if policy.generation < record.generation and policy.step >= record.from_step:
                self._of(policy.step).replaced.append(policy)
            else:
                self.saved(policy)

    def saved(self, policy: PolicyRecord) -> None:
        """Weights are saved."""
        weights = self._of(policy.step)
        if weights.policy is not None and weights.sampler is None:
            weights.replaced.append(weights.policy)
        if weights.sampler is None:
            weights.policy = policy
            weights.saved.set()
        else:
            # the same weights, saved again by a restored run
            weights.replaced.append(policy)

    async def sampler(self, step: int) -> TokenSampler:
        """Return the sampler of the weights after a step, once they are saved.

        Raises:
            NotFound: they are deleted, and this run does not save them.
            CrucibleError: the service failed.
        """
        if not self.has(step):
            raise NotFound(f"the weights after step {step}, to sample from, are deleted")
        weights = self._of(step)
        await weights.saved.wait()
        async with weights.opening:
            if weights.sampler is None:
                weights.sampler = await self._open(weights)
        return weights.sampler

    def has(self, step: int) -> bool:
        """Return whether the weights after a step are there, or this run has yet to save them."""
        weights = self._weights.get(step)
        return step >= self._from_step or (weights is not None and weights.policy is not None)

    async def _open(self, weights: _Weights) -> TokenSampler:
        policy = weights.policy
        assert policy is not None
        assert self._run is not None
        sampler = await self._run.sampler(policy.path, ref=policy.ref, record_sequences=self._records_sequences)
        if sampler.ref != policy.ref:
            # before anything is sampled: the next owner must find what is asked for here
            weights.policy = policy.model_copy(update={"ref": sampler.ref})
            await self._journal.open_policy(weights.policy)
        return sampler

    async def release(self, steps: Sequence[int]) -> None:
        """Delete the weights after these steps, which are no longer needed. A failure is left to their expiry."""
        for step in steps:
            weights = self._weights.pop(step, None)
            if weights is None or weights.policy is None:
                continue
            if weights.sampler is not None:
                await weights.sampler.close()
            for policy in (*weights.replaced, weights.policy):
                # in this order: the next owner must not sample from weights that are gone
                await self._journal.drop_policy(policy)
                with suppress(CrucibleError):
                    await self._backend.delete_checkpoint(policy.path)

    def known(self) -> list[int]:
        """Return the steps whose weights are saved, in order."""
        return sorted(step for step, weights in self._weights.items() if weights.policy is not None)

    async def close(self) -> None:
        """Close the samplers."""
        for weights in self._weights.values():
            sampler, weights.sampler = weights.sampler, None
            if sampler is not None:
                await sampler.close()

    def _of(self, step: int) -> _Weights:
        return self._weights.setdefault(step, _Weights())
