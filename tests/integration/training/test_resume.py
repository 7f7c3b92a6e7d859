"""A new owner over a whole run: proven and cold resumes, changed data, a finished job."""

from pathlib import Path

import pytest

from nsai_work.errors import DataChanged, ResumeUnproven
from tests.integration.training.harness import Killed, Reaper, Scene, payload_of
from tests.integration.training.hooks import kill_run, once
from tests.integration.training.service import Service

pytestmark = pytest.mark.anyio


async def test_changed_data_is_refused(tmp_path: Path) -> None:
    """A resume over other data could not be exact."""
    payload = payload_of(tmp_path)
    data = payload.data.model_copy(update={"sha256": "0" * 64})
    scene = Scene(payload.model_copy(update={"data": data}))
    with pytest.raises(DataChanged, match="submit a new job"):
        await scene.drive()


async def test_a_finished_job_is_not_trained_again(tmp_path: Path) -> None:
    """The worker died after the last write: the result comes from the journal, and nothing is sent."""
    scene = Scene(payload_of(tmp_path))
    first = await scene.drive()
    contacts: list[str] = []
    scene.service.hook = lambda event, details: contacts.append(event)
    assert await scene.drive() == first
    assert contacts == []


async def test_a_cold_optimizer_is_caught(tmp_path: Path, alone: Scene) -> None:
    """A service that restores the weights alone is found out by the second repeated step."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 3}), Service(restores_optimizer=False))
    scene.service.hook = once("result", 6, kill_run)

    result = await scene.drive()

    [event] = scene.journal.events_named("resume.cold")
    assert (event["step"], event["missing"]) == (5, "optimizer")
    assert result["resume"] == "cold"
    assert scene.losses[:4] == alone.losses[:4]
    assert scene.losses != alone.losses


async def test_a_cold_optimizer_stops_the_job_if_the_policy_says_so(tmp_path: Path, alone: Scene) -> None:
    """on_cold_optimizer: stop. A retry does not go on with the cold run: it restores again."""
    recovery = {"enabled": True, "on_cold_optimizer": "stop", "poll_interval_ms": 10}
    scene = Scene(
        payload_of(tmp_path, checkpoint_policy={"save_every": 3}, recovery=recovery),
        Service(restores_optimizer=False),
    )
    scene.service.hook = once("result", 6, kill_run)
    with pytest.raises(ResumeUnproven, match="optimizer's state did not come back"):
        await scene.drive()

    scene.service.restores_optimizer = True
    result = await scene.drive()

    assert [run["from_step"] for run in result["lineage"]] == [0, 3, 3]
    assert scene.losses == alone.losses


async def test_a_proven_resume_is_exact(tmp_path: Path) -> None:
    """Two steps ran again and were equal."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 3}))
    scene.service.hook = once("result", 6, kill_run)
    result = await scene.drive()
    assert result["resume"] == "exact"
    [event] = scene.journal.events_named("resume.verified")
    assert event["step"] == 5
    again = [row.step for row in scene.journal.checkpoints.values() if row.generation == 2]
    assert again == [6, 7], "what it was restored from is not saved again"


async def test_what_cannot_be_made_again_is_not_sent_again(tmp_path: Path, alone: Scene) -> None:
    """The open intent's digest is not what this owner comes to: it restores instead of sending something else."""
    scene = Scene(payload_of(tmp_path))
    with pytest.raises(Killed):
        await scene.drive(reaper=Reaper(when=lambda: len(scene.journal.steps) == 4))
    for key in set(scene.journal.intents) - scene.journal.closed:
        scene.journal.intents[key] = scene.journal.intents[key].model_copy(update={"digest": "0" * 64})

    result = await scene.drive()

    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, 2]
    assert "cannot be rebuilt" in str(result["lineage"][0]["end_reason"])
