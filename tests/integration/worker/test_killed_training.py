"""Training jobs whose worker is killed while operations are on their way, ahead of their acceptance."""

from functools import partial
from pathlib import Path

from backends.tinkex_dev.server import DEV_KEY
from nsai_work import Job, JobHandle, submit
from tests.forked_server import ForkedServer
from tests.integration.training.harness import payload_of
from tests.rig import Rig, until

STEPS = 40


def has_steps(handle: JobHandle, count: int) -> bool:
    """Whether so many are recorded."""
    return len(handle.steps()) >= count


def test_a_worker_killed_in_the_middle_of_a_window_costs_no_step(embedded: Rig, tmp_path: Path) -> None:
    """Twice, over a network of 15 ms: one remote run, each step once and in order, the losses of one left alone."""
    fields = {"base_model": "tiny-lm", "max_steps": STEPS, "checkpoint_policy": {"strategy": "last"}}
    payload = payload_of(tmp_path, **fields).model_dump(mode="json")
    losses = []
    for kills in (0, 2):
        with ForkedServer(tmp_path / f"server-{kills}", "--latency-ms", "15", "--work-ms", "5") as server:
            embedded.variables |= {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}
            worker = embedded.start_worker(lease_ttl_s=600)
            job = Job(kind="training_step", backend="tinkex", payload=payload)
            handle = submit(job, embedded.settings())
            for kill in range(1, kills + 1):
                until(partial(has_steps, handle, 10 * kill), "some steps", worker.text)
                worker.kill()
                worker = embedded.start_worker(lease_ttl_s=600)
            result = handle.result(timeout=120)
            worker.kill()
            assert result["recoveries"] == 0
            assert (result["resume"] == "warm") == bool(kills)
            losses.append([step.loss for step in handle.steps()])
            entries = server.log(kind="optim_step")
            assert [entry["step"] for entry in entries] == [*range(1, STEPS + 1)]
            assert len({entry["model_id"] for entry in entries}) == 1
            assert [entry["seq_id"] for entry in entries] == sorted({entry["seq_id"] for entry in entries})
    assert losses[0] == losses[1]
