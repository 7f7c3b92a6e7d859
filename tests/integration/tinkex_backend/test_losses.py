"""A loss that a job cannot be trained with is refused at submit, whether or not the service can be asked."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsai_work import Job, Settings, submit, submit_many
from nsai_work.client.connections import close_connections
from nsai_work.errors import InvalidJob

MakeJob = Callable[[str], Job]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A store of the test's own, and the address of a service at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("TINKER_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("TINKER_API_KEY", "tml-dev")
    yield Settings(home=tmp_path / "home", submit_timeout_s=0.5)
    close_connections()


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """Makes jobs that differ in their loss alone."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "the dog barks"}\n')

    def make(loss_fn: str) -> Job:
        payload = {"base_model": "tiny-lm", "data": {"path": str(data)}, "max_steps": 1, "loss_fn": loss_fn}
        return Job(kind="training_step", backend="tinkex", payload=payload)

    return make


@pytest.mark.parametrize("loss_fn", ["cross_entropi", "ppo"], ids=["misspelt", "needs more than texts"])
def test_it_takes_no_service_to_refuse_a_loss(settings: Settings, make_job: MakeJob, loss_fn: str) -> None:
    """The error names the field, the value and what is allowed; nothing is stored."""
    with pytest.raises(
        InvalidJob, match=rf"payload\.loss_fn: '{loss_fn}' is not allowed; .*cross_entropy"
    ) as refused:
        submit(make_job(loss_fn), settings)

    assert refused.value.details["field"] == "payload.loss_fn"
    assert not settings.home.exists()


def test_jobs_that_differ_in_their_loss_alone_are_all_looked_at(settings: Settings, make_job: MakeJob) -> None:
    """What many jobs ask alike is asked once, and while nobody answers; a loss is not among it."""
    with pytest.raises(InvalidJob, match="dro"):
        submit_many([make_job("cross_entropy"), make_job("dro")], settings)

    assert not settings.home.exists()
