"""Jobs on the development server over HTTP, and the judgement of what became of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible.backend import TrainingBackend
from tests.integration.training.harness import Scene, payload_of

STEPS = 8
POLICY = {"save_every": 3, "keep_last": 2}


@dataclass(frozen=True)
class Alone:
    """What the run that nothing happened to came to, and how often it touched the world outside."""

    losses: list[float]
    evaluations: list[tuple[int, dict[str, float]]]
    digest: str
    contacts: int


class InformedBackend(TinkexBackend):
    """A backend that need not ask whether the server runs requests by their numbers."""

    async def open(self) -> None:
        await super().open()
        self.service.connection.memory.learn(orders_seq_id=True)


def scene_on(server: DevServer, folder: Path, *, send_ahead: bool = False, **fields: Any) -> Scene:
    """One job on a server, each owner with a backend of its own."""
    kind = InformedBackend if send_ahead else TinkexBackend

    def new_backend() -> TrainingBackend:
        access = {"base_url": server.url, "api_key": "tml-dev"}
        return kind({**access, "give_up_after_s": 5.0, "send_ahead": send_ahead})

    settings: dict[str, Any] = {
        "base_model": "tiny-lm",
        "eval": {"every": 4, "split": 0.3},
        "lora": {"rank": 4, "seed": 0},
        "max_steps": STEPS,
        "optimizer": {"learning_rate": 0.02},
        "checkpoint_policy": POLICY,
        # a request for each look, so fewer of them than on the service in memory
        "recovery": {"enabled": True, "backoff_ms": 1000, "poll_interval_ms": 50},
    }
    return Scene(payload_of(folder, **(settings | fields)), new_backend=new_backend)


def applied(server: DevServer, scene: Scene) -> dict[str, list[int]]:
    """The optimizer steps that the server made, by remote run of the job."""
    entries = server.log(kind="optim_step")
    made: dict[str, list[int]] = {run.ref.run_id: [] for run in scene.journal.runs}
    for entry in entries:
        if entry["model_id"] in made:
            made[entry["model_id"]].append(entry["step"])
    return made


def evaluations(scene: Scene) -> list[tuple[int, dict[str, float]]]:
    """The evaluations that count."""
    return [(record.step, record.metrics) for record in scene.journal.evaluations]


def check_equal(server: DevServer, scene: Scene, alone: Alone, result: dict[str, Any]) -> None:
    """Same losses and evaluations, same weights and optimizer state, no step twice in any remote run."""
    assert [step.step for step in scene.journal.steps] == list(range(1, STEPS + 1))
    assert scene.losses == alone.losses
    assert evaluations(scene) == alone.evaluations
    assert server.checkpoint_digest(result["checkpoint"]) == alone.digest
    for steps in applied(server, scene).values():
        assert steps == list(range(steps[0], steps[0] + len(steps))) if steps else True
