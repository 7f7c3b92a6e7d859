"""An environment that misbehaves costs its rollout, which is counted, and never the run; wrong jobs are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from crucible.errors import CommandMissing, CrucibleError, EnvironmentFailed
from crucible.http.redaction import remember_secret
from nsai_work import Job, submit
from nsai_work.client.connections import job_store
from nsai_work.client.submit import submit_many
from nsai_work.client.validation.loss_check import check_loss
from nsai_work.errors import InvalidJob
from nsai_work.payloads import JobKind, ReinforcementStep, parse_payload
from nsai_work.store.records import JobFilter
from nsai_work.testing import isolated_store
from nsai_work.training.rollouts.environment import environment_of
from nsai_work.training.rollouts.examples import advantages
from nsai_work.training.rollouts.prompts import read_prompts
from tests.games import SECRET
from tests.integration.training.harness import Scene
from tests.integration.training.test_reinforcement import rl_payload

pytestmark = pytest.mark.anyio

FAULTS = {
    "raises": "RuntimeError: out of dice",
    "raises at once": "RuntimeError: out of dice",
    "hangs": "limits.seconds",
    "times out itself": "TimeoutError: no answer of the game",
    "exits": "SystemExit: 3",
    "cancels": "CancelledError",
    "not async": "step is not async; define it with async def",
    "no episode": "it gave NoneType, not Episode",
    "no observation": "it gave str, not Observation",
    "no feedback": "it gave float, not Feedback",
    "NaN": "a reward must be finite",
    "text": "a reward must be a number",
    "done is text": "done must be true or false, not str",
    "a reward of 1e300": "a reward must be from -1e+15 to 1e+15, not 1e+300",
    "NaN metric": "the metric odd must be finite",
    "a metric of 1e300": "the metric odd must be from -1e+100 to 1e+100",
    "no messages": "must have messages",
    "no Message": "must have messages",
    "a last word": "it gave messages with done=True, which the model does not see",
    "a last prompt": "it gave a prompt with done=True, which the model does not see",
    "raises 10 MB": r"RuntimeError: \x1b[2Jstep 9\nxxx",
    "raises a secret": "RuntimeError: 401: (hidden)",
    "raises no text": "UnreadableError: its text cannot be read",
    "many metrics": "it gave 1000 metrics; at most 64",
    "a long name": "names of at most 200 characters",
}
ENDS = {"1 MB": "context", "10 MB": "context", "endless": "limits.turns"}


def faulty(fault: str, **args: Any) -> Any:
    """A job of one step on an environment with a fault."""
    return rl_payload(
        environment={"name": "tests.games:Faulty", "args": {"fault": fault, "letters": "ab", **args}},
        group_size=4,
        max_steps=1,
        sampling={
            "max_tokens": 2,
            # a short limit only where it is what is waited for: a busy machine passes any
            "limits": {"turns": 3, "seconds": 0.5 if fault == "hangs" else 60.0},
            "on_error": {"retry": 1, "min_group": 1},
        },
    )


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failed_rollout_is_counted_with_its_reason(fault: str) -> None:
    """It is begun again, then left out; the group goes on with the others. The reason is kept on a line of bounded
    length, without credentials."""
    remember_secret(SECRET)
    scene = Scene(faulty(fault, always=True), new_backend=FakeBackend)
    with pytest.raises(EnvironmentFailed, match="8 of 8 rollouts failed"):
        await scene.drive()
    assert {record.status for record in scene.journal.rollouts.values()} == {"failed"}
    assert all(FAULTS[fault] in record.reason for record in scene.journal.rollouts.values())
    assert all(record.reward is None for record in scene.journal.rollouts.values())
    assert max(len(record.reason) for record in scene.journal.rollouts.values()) < 2_100
    some = Scene(faulty(fault), new_backend=FakeBackend)
    result = await some.drive()
    [step] = some.journal.steps
    failed = [one for one in some.journal.rollouts.values() if one.reward is None]
    assert result["rollouts_failed"] == len(failed)
    told = [(event["step"], event["rollouts"], event["of"]) for event in events_of(some)]
    assert told == ([(1, len(failed), 8)] if failed else [])
    assert {event["reason"] for event in events_of(some)} <= {record.reason for record in failed}
    assert step.metrics["rollouts"] == 8.0
    assert step.metrics["rollouts_failed"] == len(failed)


def events_of(scene: Scene) -> list[Any]:
    """What was told of failed rollouts."""
    return list(scene.journal.events_named("training.rollouts_failed"))


async def test_failed_rollouts_are_told_once() -> None:
    """At the first step that has any; the result counts those of all steps, once for each round."""
    fields: dict[str, Any] = {"max_steps": 4, "substeps": 2}
    environment = {"name": "tests.games:Faulty", "args": {"fault": "raises", "letters": "ab"}}
    sampling = {"max_tokens": 2, "on_error": {"retry": 0, "min_group": 1}}
    scene = Scene(rl_payload(environment=environment, sampling=sampling, **fields), new_backend=FakeBackend)
    result = await scene.drive()
    [event] = events_of(scene)
    assert (event["step"], event["of"], event["reason"]) == (1, 4, "RuntimeError: out of dice")
    failed = [one for one in scene.journal.rollouts.values() if one.reward is None]
    assert {one.step for one in failed} == {1, 3}
    assert result["rollouts_failed"] == len(failed)


@pytest.mark.parametrize("fault", ENDS)
async def test_a_rollout_beyond_its_limits_ends(fault: str) -> None:
    """With the reward so far, and the reason."""
    scene = Scene(faulty(fault, always=True), new_backend=FakeBackend)
    await scene.drive()
    assert {record.reason for record in scene.journal.rollouts.values()} == {ENDS[fault]}
    assert {record.reward for record in scene.journal.rollouts.values()} == {0.75 if fault == "endless" else 0.5}


@pytest.mark.parametrize("fault", ["raises at its end", "exits at its end", "hangs at its end"])
async def test_what_cannot_be_closed_is_trained_on(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of an episode, and of the environment, is its own matter, and has a limit."""
    for module in ("episodes.groups", "environment"):
        monkeypatch.setattr(f"nsai_work.training.rollouts.{module}.CLOSE_WITHIN_S", 0.01)
    scene = Scene(faulty(fault, always=True), new_backend=FakeBackend)
    await scene.drive()
    assert scene.journal.steps[0].metrics["rollouts_failed"] == 0.0


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("tasks of text", "tasks.. of the environment gave str 'ten'"),
        ("exits at once", "SystemExit"),
        ("hangs at once", "it took longer than 0.2 s to open"),
    ],
)
async def test_an_environment_that_cannot_be_opened_fails_its_job_alone(
    fault: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it raised or gave, or that it took too long."""
    if fault == "hangs at once":
        monkeypatch.setattr("nsai_work.training.rollouts.environment.OPEN_WITHIN_S", 0.2)
    with pytest.raises(EnvironmentFailed, match=named):
        await Scene(faulty(fault), new_backend=FakeBackend).drive()


async def test_rollouts_without_room_for_an_answer_are_named() -> None:
    """A step on prompts that are all too long fails, and its error has the reason."""
    payload = faulty("1 MB at once", always=True)
    with pytest.raises(EnvironmentFailed, match="8 of 8 rollouts ended before an answer: context"):
        await Scene(payload, new_backend=FakeBackend).drive()


async def test_a_task_that_does_not_exist_is_named() -> None:
    """As any other fault of the environment."""
    with pytest.raises(EnvironmentFailed, match="task"):
        await Scene(faulty("no such task"), new_backend=FakeBackend).drive()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a group of one": ({"group_size": 1}, "group_size: a group of 1"),
    "a larger least group": ({"sampling": {"on_error": {"min_group": 9}}}, "min_group"),
    "a loss of texts": ({"loss_fn": "cross_entropy"}, "no loss of rl"),
    "another loss's setting": ({"loss_fn_config": {"beta": 1.0}}, "loss_fn_config.beta"),
    "a lag of a bound loss": ({"loss_fn": "stable_reinforce", "steps_ahead": 1}, "steps_ahead"),
    "a batch size": ({"batch_size": 4}, "batch_size"),
    "an evaluation": ({"eval": {"split": 0.5}}, "eval"),
    "no environment": ({"environment": {}}, "set either name"),
    "two environments": ({"environment": {"name": "a:B", "reward": "a:b"}}, "set either name"),
    "a reward without prompts": ({"environment": {"reward": "a:b"}}, "data: prompts belong"),
    "prompts without a reward": ({"data": {"path": "x.jsonl"}}, "data: prompts belong"),
    "forms of rows": (
        {"environment": {"reward": "a:b"}, "data": {"path": "x", "train_on": "all_tokens"}},
        "train_on",
    ),
    "no length": ({"max_steps": None}, "max_steps"),
}


@pytest.mark.parametrize(("fields", "named"), REFUSED.values(), ids=REFUSED)
def test_wrong_jobs_are_refused(fields: dict[str, Any], named: str) -> None:
    """At submit, with the field."""
    with pytest.raises(InvalidJob, match=named):
        rl_payload(**fields)


def test_what_a_backend_lacks_is_refused() -> None:
    """Its losses are known before it is opened; so is a name that no package registers."""
    with pytest.raises(InvalidJob, match=r"payload.loss_fn: 'stable_reinforce'"):
        check_loss(FakeBackend, "fake", rl_payload(loss_fn="stable_reinforce"))
    with pytest.raises(InvalidJob, match=r"payload.environment.name: 'gues'"):
        check_loss(FakeBackend, "fake", rl_payload(environment={"name": "gues"}))
    with pytest.raises(CommandMissing, match="NSAI_WORK_PYTHON_ALLOW"):
        environment_of(rl_payload(), allow=[])


def test_bad_prompts_are_named_by_line(tmp_path: Path) -> None:
    """And a column that the function needs by its row."""
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a", "answer": 1}, {"answer": 2}, {"prompt": []}, {"prompt": [{"role": "nobody"}]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = {"environment": {"reward": "tests.contract.test_environments:right"}}
    payload = rl_payload(**reward, data={"path": str(path)})
    with pytest.raises(InvalidJob, match=r"(?s)line 2.*line 3.*line 4"):
        read_prompts(payload.data)
    kept = rl_payload(**reward, data={"path": str(path), "on_bad_row": "skip"})
    assert [row.columns for row in read_prompts(kept.data)] == [{"answer": 1}]
    path.write_text(json.dumps({"prompt": "a"}) + "\n")
    with pytest.raises(InvalidJob, match=r"^payload\.environment\.reward: .*row 1, of the columns prompt"):
        environment_of(payload, allow=["tests"])


@pytest.mark.parametrize("field", ["data", "eval"])
def test_prompts_without_room_for_an_answer_are_refused_at_submit(tmp_path: Path, field: str) -> None:
    """With their lines, as examples are that are too long; where bad rows are skipped, such a rollout ends."""
    short, path = tmp_path / "short.jsonl", tmp_path / "prompts.jsonl"
    short.write_text(json.dumps({"prompt": "a", "answer": 1}) + "\n")
    rows = [
        {"prompt": text, "answer": 1} for text in ("a", "a" * 9_000, [{"role": "user", "content": "ä" * 5_000}])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data": {"path": str(short)}, "eval": {"every": 1, "data": {"path": str(short)}}}
    (files["data"] if field == "data" else files["eval"]["data"])["path"] = str(path)  # type: ignore[index]
    fields = {"environment": {"reward": "tests.contract.test_environments:right"}, "max_tokens": 8_192, **files}
    with isolated_store(python_allow="tests"):
        with pytest.raises(InvalidJob, match=r"(?s)line 2: has 9,\d+ tokens, and the limit is .*line 3: has 10,"):
            submit(rl_job(**fields))
        if field == "data":
            fields["data"] = {"path": str(path), "on_bad_row": "skip"}
            submit(rl_job(**fields))


def test_advantages() -> None:
    """Less the mean of the group, divided by its spread, or as they are."""
    rewards = [1.0, 0.0, 0.0, 1.0]

    def of(**spec: Any) -> list[float]:
        payload = parse_payload(JobKind.TRAINING_STEP, {**rl_payload().model_dump(mode="json"), "advantage": spec})
        assert isinstance(payload, ReinforcementStep)
        return advantages(rewards, payload)

    assert of() == [0.5, -0.5, -0.5, 0.5]
    assert of(scale="std") == pytest.approx([1.0, -1.0, -1.0, 1.0], rel=1e-5)
    assert of(baseline="none") == rewards


def rl_job(**fields: Any) -> Job:
    """A job of one step on the fake backend."""
    payload = rl_payload(**{"max_steps": 1, **fields}).model_dump(mode="json", exclude_unset=True)
    return Job.parse({"kind": "training_step", "backend": "fake", "payload": payload})


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"reward": "tests.contract.test_environments:rigth"}, "did you mean right"),
        ({"reward": "tests.contract.test_environments:pytest"}, "must name a function"),
        ({"reward": "tests.contract.test_environments:rows"}, "row 1, of the columns prompt, answer"),
        ({"name": "tests.contract.test_environments:right"}, "must be a class that implements Environment"),
        ({"name": "tests.games:Gues"}, "did you mean Guess"),
    ],
)
def test_an_environment_that_is_here_is_checked_at_submit(
    environment: dict[str, str], named: str, tmp_path: Path
) -> None:
    """As far as a worker would: nothing is stored then."""
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a", "answer": 1}) + "\n")
    data = {"data": {"path": str(path)}} if "reward" in environment else {}
    with isolated_store(python_allow="tests") as store:
        with pytest.raises(CrucibleError, match=named):
            submit(rl_job(environment=environment, **data), store.settings)
        assert job_store(store.settings).list_jobs(JobFilter(), limit=1) == []


def test_an_environment_that_is_elsewhere_is_left_to_the_workers() -> None:
    """With an event that says so; a process that would run the job itself refuses it."""
    job = rl_job(environment={"name": "tests.games:Guess"})
    with isolated_store() as store:
        handle = submit(job, store.settings)
        [event] = [event for event in handle.events() if event.name == "submit.unverified"]
        assert "payload.environment.name: 'tests.games:Guess': the module is not in NSAI_WORK_PYTHON_ALLOW" in str(
            event.data["reason"]
        )
        with pytest.raises(CommandMissing):
            submit_many([rl_job(environment={"name": "tests.games:Guess"})], store.settings, runs_here=True)
