"""Operations that are sent before earlier ones are accepted: whatever happens to which of them, in whatever order,
the run ends as one that was left alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendUnavailable,
    Canceled,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    OutOfCredit,
)
from crucible.training import IntentKind
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.errors import LeaseLost
from nsai_work.training.sender import WINDOW
from tests.integration.training.harness import STEPS, Reaper, Scene, payload_of
from tests.integration.training.service import Service
from tests.integration.training.test_survival import check_equal, final_path, undisturbed

pytestmark = pytest.mark.anyio

EVALUATED = {"eval": {"every": 2, "split": 0.3}}


def ahead(folder: Path, seed: int = 0, **fields: Any) -> Scene:
    """A job on a service that runs operations by number."""
    return Scene(payload_of(folder, **fields), Service(orders=True, seed=seed))


@pytest.mark.parametrize(
    ("replays", "orders"), [(True, None), (True, False), (False, True), (None, True), (False, False)]
)
async def test_where_either_is_not_known_nothing_is_sent_ahead(
    tmp_path: Path, replays: bool | None, orders: bool | None
) -> None:
    """Each operation is accepted before the next one leaves."""
    scene = Scene(payload_of(tmp_path, pipeline_depth=5, **EVALUATED), Service(replays=replays, orders=orders))
    await scene.drive()
    assert scene.service.most_in_transit == 1


@pytest.mark.parametrize("depth", [None, 1, 64])
async def test_where_both_are_known_a_window_is_on_its_way(tmp_path: Path, depth: int | None) -> None:
    """Steps, passes and saves; as many as the depth allows, and no more than the window."""
    fields = {"pipeline_depth": depth, "max_steps": 60, "checkpoint_policy": {"save_every": 1, "keep_last": 2}}
    scene = ahead(tmp_path, **fields)
    await scene.drive()
    most = scene.service.most_in_transit
    assert most == {None: most, 1: 3, 64: WINDOW}[depth]
    assert depth is not None or 8 <= most <= WINDOW


Fault = tuple[str, str, int]
FAULTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "lost": lambda details: throw(AnswerLost("410")),
    "away": lambda details: throw(BackendUnavailable("away")),
    "busy": lambda details: throw(CapacityError("429")),
    "gone": lambda details: setattr(details["run"], "alive", False),
    "poisoned": lambda details: setattr(details["run"], "corrupted", True),
}


def throw(error: CrucibleError) -> None:
    """Raise it."""
    raise error


def place(scene: Scene, faults: list[Fault]) -> None:
    """Let each strike once: at an event of an operation of a step."""
    waiting = [*faults]

    def hook(event: str, details: dict[str, Any]) -> None:
        for fault in waiting:
            name, when, step = fault
            if event == when and details["intent"].step == step:
                waiting.remove(fault)
                FAULTS[name](details)

    scene.service.hook = hook


@settings(max_examples=30, derandomize=True)
@given(
    faults=st.lists(
        st.tuples(
            st.sampled_from(sorted(FAULTS)), st.sampled_from(["send", "sent", "result"]), st.integers(0, STEPS)
        ),
        max_size=5,
    ),
    kills=st.lists(st.integers(1, 90), max_size=4),
    seed=st.integers(0, 10_000),
    depth=st.none() | st.integers(1, 9),
    evaluated=st.booleans(),
)
async def test_faults_and_deaths_in_any_order_of_arrival(
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[Fault],
    kills: list[int],
    seed: int,
    depth: int | None,
    evaluated: bool,
) -> None:
    """A request or its acceptance is lost, refused for now, or comes late; the run goes, or breaks; owners die."""
    folder = tmp_path_factory.mktemp("data")
    fields: dict[str, Any] = EVALUATED if evaluated else {}
    alone = await undisturbed(folder, **fields)
    recovery = {"enabled": True, "max_attempts": 50, "poll_interval_ms": 10}
    scene = ahead(folder, seed, pipeline_depth=depth, recovery=recovery, **fields)
    place(scene, faults)

    check_equal(scene, alone, await scene.survive(kills))

    assert [record.metrics for record in scene.journal.evaluations] == [
        record.metrics for record in alone.journal.evaluations
    ]


@pytest.mark.parametrize("frees", [False, True])
@pytest.mark.parametrize("step", [1, 3, STEPS])
async def test_a_refused_request_in_the_middle_ends_the_run_and_a_retry_restores(
    tmp_path: Path, alone: Scene, step: int, frees: bool
) -> None:
    """Those behind it may have arrived, and some services then run them without it."""
    scene = ahead(tmp_path, seed=step)
    refused = []

    def hook(event: str, details: dict[str, Any]) -> None:
        intent = details.get("intent")
        if event == "send" and intent.step == step and intent.kind is IntentKind.STEP and not refused:
            refused.append(intent)
            if frees:
                details["run"].freed[intent.first_seq_id] = intent.last_seq_id + 1
            raise InvalidRequest("the batch is too odd")

    scene.service.hook = hook
    with pytest.raises(InvalidRequest, match="too odd"):
        await scene.drive()
    [run] = scene.journal.runs
    assert (run.end_reason is None) == (step == 1), "the first is sent alone"

    result = await scene.drive()

    assert scene.losses == alone.losses
    assert scene.service.saved[result["checkpoint"]].model == alone.service.saved[final_path(alone)].model


@pytest.mark.parametrize("error", [OutOfCredit("402"), AuthenticationFailed("401")])
async def test_what_says_nothing_about_the_request_leaves_the_run_as_it_is(
    tmp_path: Path, alone: Scene, error: CrucibleError
) -> None:
    """The job pauses or fails; the next owner closes the hole with the number that is missing."""
    scene = ahead(tmp_path)
    left = [error]

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "send" and details["intent"].step == 3 and left:
            raise left.pop()

    scene.service.hook = hook
    with pytest.raises(type(error)):
        await scene.drive()

    result = await scene.drive()

    check_equal(scene, alone, result)
    assert result["resume"] == "warm"
    assert len(scene.journal.runs) == 1


async def test_an_owner_that_is_replaced_in_the_middle_of_a_window_does_no_harm(
    tmp_path: Path, alone: Scene
) -> None:
    """At any contact: what it has sent, and still sends, are the same requests as those of the new owner."""
    for at in range(8, 60, 3):
        scene = ahead(tmp_path, seed=at)
        counted = Reaper()
        first = asyncio.create_task(scene.drive(reaper=counted))
        while counted.contacts < at:  # noqa: ASYNC110 - it is the turns of the loop that count
            await asyncio.sleep(0)
        result = await scene.drive()
        with pytest.raises(LeaseLost):
            await first
        check_equal(scene, alone, result)
        assert len(scene.journal.runs) == 1


@pytest.mark.parametrize("step", range(1, STEPS + 1))
async def test_a_cancellation_in_the_middle_of_a_window_frees_the_run(tmp_path: Path, step: int) -> None:
    """And leaves no task behind."""
    scene = ahead(tmp_path, seed=step)
    control = Control()

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "sent" and details["intent"].step == step:
            control.stop(StopReason.CANCEL)

    scene.service.hook = hook
    before = asyncio.all_tasks()
    with pytest.raises(Canceled):
        await scene.drive(control=control)
    assert not scene.service.newest.alive
    assert asyncio.all_tasks() <= before
