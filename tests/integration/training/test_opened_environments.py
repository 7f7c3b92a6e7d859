"""The environments of a job are all closed, whatever comes between the first that opens and the end of the run."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from backends.fake import FakeBackend
from crucible.environments import ChatModel
from crucible.errors import Canceled, CrucibleError, EnvironmentFailed, InvalidRequest
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.errors import InvalidJob
from nsai_work.training.rollouts.policies import PolicySamplers
from tests.games import Letters
from tests.integration.training.harness import Scene
from tests.integration.training.test_reinforcement import rl_payload

pytestmark = pytest.mark.anyio

happened: list[str] = []
opening = asyncio.Event()


class Noted(Letters):
    """Letters that note when they are opened and closed, and fail as their settings say."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__()
        self._name = str((settings or {})["name"])
        self._fault = str((settings or {}).get("fault"))

    def model_names(self) -> list[str]:
        return ["grader"] if self._fault == "refuses models" else []

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        raise InvalidRequest.of("grader", "tiny-lm", "another")

    async def open(self) -> None:
        happened.append(f"open {self._name}")
        match self._fault:
            case "raises":
                raise RuntimeError("no display")
            case "refuses":
                raise InvalidRequest.of("environment.args.fault", self._fault, "another")
            case "exits":
                raise SystemExit(3)
            case "hangs":
                opening.set()
                await asyncio.Event().wait()

    def tasks(self) -> int:
        if self._fault == "cannot count":
            raise RuntimeError("no tasks")
        return -1 if self._fault == "counts wrong" else super().tasks()

    async def close(self) -> None:
        happened.append(f"close {self._name}")
        if self._fault == "raises at its end":
            raise RuntimeError("cannot be closed")


def job_with(*faults: str) -> Any:
    """A job on an environment for each fault: the first is trained on, the others are evaluated."""

    def named(number: int, fault: str) -> dict[str, Any]:
        models = {"models": {"grader": "tiny-lm"}} if fault == "refuses models" else {}
        return {"name": f"{__name__}:Noted", "args": {"name": str(number), "fault": fault}, **models}

    first, *others = [named(number, fault) for number, fault in enumerate(faults)]
    tasks = [{"environment": each, "limit": 1, "name": f"set{number}"} for number, each in enumerate(others)]
    evaluation = {"eval": {"every": 1, "tasks": tasks}} if tasks else {}
    return rl_payload(environment=first, max_steps=1, **evaluation)


FAULTS = ["raises", "refuses", "exits", "hangs", "cannot count", "counts wrong", "refuses models"]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("fault", FAULTS)
async def test_those_opened_before_one_that_fails_are_closed(
    fault: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that one too, once each; those behind it are never opened."""
    if fault == "hangs":
        monkeypatch.setattr("nsai_work.training.rollouts.environment.OPEN_WITHIN_S", 0.05)
    happened.clear()
    faults = ["", "", ""]
    faults[place] = fault
    with pytest.raises(CrucibleError) as caught:
        await Scene(job_with(*faults), new_backend=FakeBackend).drive()
    assert isinstance(caught.value, InvalidRequest if fault.startswith("refuses") else EnvironmentFailed)
    opened = [f"open {number}" for number in range(place if fault == "refuses models" else place + 1)]
    assert [each for each in happened if each.startswith("open")] == opened
    assert [each for each in happened if each.startswith("close")] == [
        f"close {number}" for number in reversed(range(place + 1))
    ]


async def test_a_stop_while_one_opens_closes_those_before_it() -> None:
    """A cancellation, as a hand-over at shutdown, does not wait for what hangs."""
    happened.clear()
    opening.clear()
    control = Control()
    run = asyncio.create_task(Scene(job_with("", "hangs", ""), new_backend=FakeBackend).drive(control=control))
    await asyncio.wait_for(opening.wait(), 30)
    control.stop(StopReason.CANCEL)
    with pytest.raises(Canceled):
        await run
    assert happened == ["open 0", "open 1", "close 1", "close 0"]


async def test_an_environment_that_cannot_be_closed_leaves_the_others_closed() -> None:
    """At the end of a run that succeeds."""
    happened.clear()
    await Scene(job_with("", "raises at its end", ""), new_backend=FakeBackend).drive()
    assert happened == ["open 0", "open 1", "open 2", "close 2", "close 1", "close 0"]


async def test_a_sampler_that_cannot_be_closed_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is raised, after the environments are closed."""

    async def broken(policies: PolicySamplers) -> None:
        del policies
        raise OSError("gone")

    happened.clear()
    scene, stopped = Scene(job_with("", ""), new_backend=FakeBackend), Control()
    stopped.stop(StopReason.CANCEL)
    with pytest.raises(Canceled):
        await scene.drive(control=stopped)
    assert happened == []
    monkeypatch.setattr(PolicySamplers, "close", broken)
    with pytest.raises(OSError, match="gone"):
        await scene.drive()
    assert happened[-2:] == ["close 1", "close 0"]


async def test_shares_of_prompts_that_are_too_small(tmp_path: Path) -> None:
    """What the evaluation has opened by then is closed."""
    happened.clear()
    for name in ("a", "b"):
        (tmp_path / name).write_text('{"prompt": "Say a.", "answer": "a"}\n')
    sources = [{"path": str(tmp_path / "a")}, {"path": str(tmp_path / "b"), "weight": 1e-8}]
    tasks = [{"environment": {"name": f"{__name__}:Noted", "args": {"name": "1"}}}]
    payload = rl_payload(
        environment={"reward": "tests.contract.test_environments:right"},
        data={"sources": sources},
        eval={"tasks": tasks},
    )
    with pytest.raises(InvalidJob, match="its share of the mixture is below"):
        await Scene(payload, new_backend=FakeBackend).drive()
    assert happened == ["open 1", "close 1"]
