"""Reinforcement learning: how busy sampling is kept, what a step costs beside it, memory, and growth of the store.

    python benchmarks/rollouts.py [--groups 64] [--size 8] [--concurrency 16] [--steps 4]

The service is a stand-in in this process, which answers a sample after a given time and a training step at once, so
that only the driver is measured: environments, rendering, the journal in SQLite, batches. Two forms: samples of 50
ms, one for each rollout, where all places of the concurrency should be busy; and rollouts of a second (four turns
of 250 ms), where the driver's own time should vanish in a step's. Sampling lasts from a step's first request to its
last answer. The driver's own time is what a step takes beyond the time of its rollouts at full concurrency.
"""

import argparse
import asyncio
import json
import random
import resource
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final
from unittest.mock import patch

from own_processes import run_main

from backends.fake.engine import FakeEngine
from backends.local.sampler import LocalSampler
from crucible.environments import Environment, Episode, Feedback, Observation
from crucible.prompt import Message
from crucible.token_sampler import SamplingSpec, TokenSample
from crucible.training import StepRequest, StepResult
from nsai_work import Job, submit
from nsai_work.client.connections import job_store
from nsai_work.testing import isolated_store
from nsai_work.testing.store import IsolatedStore
from nsai_work.worker import run_inline

BUSY_AIM: Final = 0.95
OVERHEAD_AIM: Final = 0.05
MEMORY_AIM_MIB: Final = 100.0
GROWTH_AIM: Final = 1.2
MIB: Final = 2**20


class Chat(Environment):
    """A conversation of as many turns as the setting says, with random rewards."""

    def __init__(self, settings: Any = None) -> None:
        self._turns = int(settings["turns"])

    def tasks(self) -> int | None:
        return None

    async def start(self, task: int, seed: int) -> Episode:
        return ChatEpisode(self._turns, seed)


class ChatEpisode(Episode):
    """An episode of ``Chat``."""

    def __init__(self, turns: int, seed: int) -> None:
        self._left = turns
        self._draw = random.Random(seed)

    async def begin(self) -> Observation:
        return Observation([Message(role="user", content=f"What is {self._draw.random()} squared?")])

    async def step(self, message: Message) -> Feedback:
        self._left -= 1
        more = [] if not self._left else [Message(role="user", content="Go on.")]
        return Feedback(len(message.text()) % 7 / 7, done=not self._left, messages=more)


@dataclass
class Service:
    """The stand-in: requests under way, and when each began and ended."""

    seconds: float
    tokens: int
    answers: Sequence[TokenSample] = ()
    spans: list[tuple[float, float]] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)

    async def sample(
        self, tokens: Sequence[int], n: int, settings: SamplingSpec, *, seed: int, key: int
    ) -> Sequence[TokenSample]:
        """Answer after some time."""
        del tokens, key
        began = time.perf_counter()
        await asyncio.sleep(self.seconds)
        # answers that were made before: drawing tokens takes longer than what is measured
        size = min(self.tokens, settings.max_tokens)
        found = [self.answers[(seed + number) % len(self.answers)] for number in range(n)]
        self.spans.append((began, time.perf_counter()))
        return [replace(each, tokens=each.tokens[:size], logprobs=each.logprobs[:size]) for each in found]

    def train(self, request: StepRequest) -> StepResult:
        """A step that takes no time."""
        self.trained.append(time.perf_counter())
        return StepResult(loss=0.0, tokens=sum(len(datum.tokens) for datum in request.batch), metrics={})


@dataclass(frozen=True)
class Figures:
    """What a run of the benchmark gave."""

    busy: float
    overhead: float
    step_s: float
    cpu_ms_per_rollout: float
    memory_mib: float
    growth: float


def measured(arguments: argparse.Namespace, *, turns: int, seconds: float) -> Figures:
    """Run a job on the stand-in."""
    rollouts, steps = arguments.groups * arguments.size, arguments.steps
    service = Service(seconds, arguments.tokens, [_answer(number, arguments.tokens) for number in range(256)])
    payload = {
        "method": "rl",
        "base_model": "tiny-lm",
        "environment": {"name": "rollouts:Chat", "args": {"turns": turns}},
        "groups_per_step": arguments.groups,
        "group_size": arguments.size,
        "max_steps": steps,
        "sampling": {"max_tokens": arguments.tokens, "concurrency": arguments.concurrency},
        "lora": {"rank": 1},
    }
    with isolated_store(python_allow="rollouts") as store, ExitStack() as stack:
        stack.enter_context(patch.object(LocalSampler, "sample", lambda _, *a, **k: service.sample(*a, **k)))
        stack.enter_context(patch.object(FakeEngine, "train", lambda _, request: service.train(request)))
        handle = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": payload}))
        before, size, cpu = _peak_mib(), _size_of(store), time.process_time()
        run_inline([handle.id], store.settings)
        cpu = time.process_time() - cpu
        assert handle.job().status == "succeeded", handle.job().error
        grown = _size_of(store) - size
        journal = job_store(store.settings)
        kept = sum(
            len(turn.data) for step in range(1, steps + 1) for turn in journal.rollout_turns(handle.id, step)
        )
    per_step = rollouts * turns
    spans = [sorted(service.spans[step * per_step : (step + 1) * per_step]) for step in range(steps)]
    sampling = [max(end for _, end in each) - each[0][0] for each in spans]
    ideal = -(-rollouts // arguments.concurrency) * turns * seconds
    walls = [second - first for first, second in pairwise(service.trained)]
    busy = sum(rollouts * turns * seconds / (arguments.concurrency * each) for each in sampling[1:])
    return Figures(
        busy=busy / (steps - 1),
        overhead=sum((wall - ideal) / wall for wall in walls) / len(walls),
        step_s=sum(walls) / len(walls),
        cpu_ms_per_rollout=1000 * cpu / (rollouts * steps),
        memory_mib=_peak_mib() - before,
        growth=grown / kept,
    )


def _answer(number: int, tokens: int) -> TokenSample:
    draw = random.Random(number)
    logprobs = tuple(-abs(draw.gauss(1, 1)) for _ in range(tokens))
    return TokenSample(tuple(draw.randrange(32, 127) for _ in range(tokens)), logprobs, stopped=True)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _size_of(store: IsolatedStore) -> int:
    [path] = store.home.glob("*.db")
    with closing(sqlite3.connect(path)) as connection:
        # without the log of the newest writes, which is used again
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return path.stat().st_size


def main() -> int:
    """Print the figures as JSON, and what was aimed at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("groups", 64), ("size", 8), ("concurrency", 16), ("steps", 4), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    short = measured(arguments, turns=1, seconds=0.05)
    long = measured(arguments, turns=4, seconds=0.25)
    print(json.dumps({"samples_of_50_ms": short.__dict__, "rollouts_of_1_s": long.__dict__}, indent=1))
    reached = {
        f"busy at 50 ms >= {BUSY_AIM:.0%}": short.busy >= BUSY_AIM,
        f"own time at 1 s < {OVERHEAD_AIM:.0%}": long.overhead < OVERHEAD_AIM,
        f"memory < {MEMORY_AIM_MIB:.0f} MiB": max(short.memory_mib, long.memory_mib) < MEMORY_AIM_MIB,
        f"store < {GROWTH_AIM} x turns": max(short.growth, long.growth) < GROWTH_AIM,
    }
    for aim, is_reached in reached.items():
        print(f"{'reached' if is_reached else 'MISSED':8} {aim}")
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    run_main(main)
