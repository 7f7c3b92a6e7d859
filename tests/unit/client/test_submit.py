"""What a submit refuses, beyond the validity of the fields, and what it says."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import InvalidRequest
from crucible.registry import installed_backends
from nsai_work import Job, Settings, submit, submit_many
from nsai_work.client.connections import close_connections, job_store
from nsai_work.client.validation.job_check import validate_jobs
from nsai_work.errors import InvalidJob, KeyReused
from nsai_work.job import NOT_ENFORCED, STATE_FIELDS
from nsai_work.payloads import Inference
from nsai_work.store import Outcome
from nsai_work.store.records import ClaimRequest
from tests.working_store import open_working_store

VALUES: dict[str, Any] = {
    "resources.cpu": 1,
    "resources.memory_mb": 1,
    "resources.gpu": "A100",
    "resources.gpu_count": 0,
    "resources.max_cost_usd": 0.0,
    "constraints.session_id": "s",
    "constraints.locality": "eu",
}
STATE: dict[str, Any] = {
    "status": "succeeded",
    "wait_reason": "none",
    "attempt": 1,
    "fence": 1,
    "worker_id": "w",
    "result": {},
    "error": {"category": "internal", "code": "x", "message": "x"},
}
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def command(value: object = 1, **fields: object) -> Job:
    """A job that echoes a value."""
    payload = {"command": "echo", "arguments": {"value": value}}
    return Job.parse({"kind": "tool_call", "backend": "fake", "payload": payload, **fields})


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of an embedded store."""
    yield Settings(home=tmp_path / "home")
    close_connections()


@pytest.mark.parametrize("path", NOT_ENFORCED)
def test_a_limit_that_nothing_enforces_is_refused(path: str, settings: Settings) -> None:
    """A job with a cap of 0.0 dollars would run in full."""
    block, name = path.split(".")
    with pytest.raises(InvalidJob, match=rf"{block}\.{name}: .* not enforced yet") as caught:
        submit(command(**{block: {name: VALUES[path]}}), settings)
    assert caught.value.details["fields"] == [path]
    assert job_store(settings).list_jobs() == []


@pytest.mark.parametrize("field", sorted(STATE_FIELDS))
def test_a_field_that_the_store_sets_is_refused(field: str, settings: Settings) -> None:
    """It would be dropped."""
    with pytest.raises(InvalidJob, match=f"{field}: .*set by the store"):
        submit(command(**{field: STATE.get(field, MOMENT)}), settings)


def test_a_stream_of_a_job_is_refused(settings: Settings) -> None:
    """Its answer is stored whole."""
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": {"stream": True, "model": "tiny-lm"}}
    job = Job.parse({"kind": "inference", "backend": "fake", "payload": {"prompt": prompt}})
    with pytest.raises(InvalidJob, match=r"payload\.prompt\.options\.stream"):
        submit(job, settings)


def test_a_prompt_without_a_model_is_refused(settings: Settings) -> None:
    """As in a batch: a backend's default may be a model that costs more. Nothing is stored."""
    prompt = {"messages": [{"role": "user", "content": "Hi"}]}
    job = Job.parse({"kind": "inference", "backend": "fake", "payload": {"prompt": prompt}})
    with pytest.raises(InvalidJob, match=r"payload\.prompt\.options\.model: None .*name the model"):
        submit(job, settings)
    assert job_store(settings).list_jobs() == []


@pytest.mark.parametrize("backend", ["openai", "litellm"])
def test_the_default_model_of_a_backend_is_that_of_its_variable(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's first model is no choice of the user."""
    kind = installed_backends().backend_class(backend)
    assert kind.configured_model() is None
    monkeypatch.setenv(f"NSAI_WORK_{backend.upper()}_DEFAULT_MODEL", "cheap-1")
    assert kind.configured_model() == "cheap-1"


def test_a_default_model_of_the_user_is_the_model_of_a_job_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was chosen, and stands in the stored job, whatever the worker's environment has. A model that the prompt
    names stays."""
    monkeypatch.setenv("NSAI_WORK_OPENAI_DEFAULT_MODEL", "cheap-1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for model, expected in ((None, "cheap-1"), ("dear-2", "dear-2")):
        options = {"seed": 7} | ({} if model is None else {"model": model})
        prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": options}
        job = Job.parse({"kind": "inference", "backend": "openai", "payload": {"prompt": prompt}})
        (validated,) = validate_jobs([job], timeout_s=1.0)
        payload = validated.job.parsed_payload
        assert isinstance(payload, Inference)
        assert payload.prompt is not None
        assert (payload.prompt.options.model, payload.prompt.options.seed) == (expected, 7)


@pytest.mark.parametrize("field", ["required_backends", "preferred_backends", "excluded_backends"])
def test_an_unknown_backend_in_a_constraint_is_refused_with_the_nearest_one(field: str, settings: Settings) -> None:
    """A misspelled exclusion would exclude nothing."""
    with pytest.raises(InvalidRequest, match=rf"constraints\.{field}: 'fak' is not allowed; did you mean fake"):
        submit(command(constraints={field: ["fak"]}), settings)


def training(data: Path, **payload: object) -> dict[str, Any]:
    """A training job of the model in this process."""
    return {
        "kind": "training_step",
        "backend": "fake",
        "payload": {"base_model": "tiny-lm", "data": {"path": str(data)}, "max_steps": 1, **payload},
    }


WRONG: dict[str, dict[str, Any]] = {
    "the backend": {"backend": "tinkx"},
    "the base model": {"payload": {"base_model": "no-such"}},
    "the data file": {"payload": {"data": {"path": "no-such.jsonl"}}},
    "a row": {"payload": {"data": {"path": "bad.jsonl"}}},
    "the job that is read": {"payload": {"init_from": {"job": "no-such"}}},
    "the loss": {"payload": {"loss_fn": "no-such"}},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_an_error_of_several_jobs_says_of_which(wrong: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    """By its place in the file or list, whichever check fails; a single job needs none."""
    rows = {"good.jsonl": '{"text": "a b c d"}', "bad.jsonl": '{"no": "text"}'}
    for name, row in rows.items():
        (tmp_path / name).write_text(row + "\n")
    good = training(tmp_path / "good.jsonl")
    payload = {**good["payload"], **wrong.get("payload", {})}
    payload["data"] = {"path": str(tmp_path / payload["data"]["path"])}
    bad = Job.parse({**good, **wrong, "payload": payload, "name": "second"})

    with pytest.raises(InvalidRequest) as caught:
        submit_many([Job.parse(good), bad, command()], settings)
    assert caught.value.message.startswith("jobs[1] (second): ")
    assert caught.value.details["job"] == 1

    with pytest.raises(InvalidRequest) as caught:
        submit(bad, settings)
    assert "jobs[" not in caught.value.message
    assert job_store(settings).list_jobs() == []


@pytest.mark.parametrize(
    ("fields", "meant"), [({"backend": "fakee"}, "fake"), ({"payload": {"base_model": "tiny-ml"}}, "tiny-lm")]
)
def test_a_name_that_nothing_has_is_refused_with_the_nearest(
    fields: dict[str, Any], meant: str, settings: Settings, tmp_path: Path
) -> None:
    """Of the backend, and of the model that it trains."""
    (tmp_path / "rows.jsonl").write_text('{"text": "a b c d"}\n')
    job = training(tmp_path / "rows.jsonl")
    with pytest.raises(InvalidRequest, match=f"did you mean {meant}"):
        submit(Job.parse({**job, **fields, "payload": {**job["payload"], **fields.get("payload", {})}}), settings)


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "of the job": ({"backnd": "fake"}, "backnd: unknown field; did you mean backend? known are id, kind, backend"),
    "of a block": (
        {"retry_policy": {"max_attempt": 1}},
        "retry_policy.max_attempt: unknown field; did you mean max_",
    ),
    "of the payload": (
        {"payload": {"command": "noop", "argument": {}}},
        "payload.argument: unknown field; did you mean arguments? known are command, arguments",
    ),
    "of a payload's block": (
        {
            "kind": "training_step",
            "payload": {"base_model": "m", "data": {"path": "x"}, "optimizer": {"learning-rate": 1}},
        },
        "payload.optimizer.learning-rate: unknown field; did you mean learning_rate?",
    ),
    "of options": (
        {
            "kind": "inference",
            "payload": {"prompt": {"messages": [{"role": "user", "content": "a"}], "options": {"max_token": 1}}},
        },
        "payload.prompt.options.max_token: unknown field; did you mean max_tokens?",
    ),
    "of a message": (
        {"kind": "inference", "payload": {"prompt": {"messages": [{"role": "user", "contents": "a"}]}}},
        "payload.prompt.messages.0.contents: unknown field; did you mean content? known are role, content",
    ),
    "of a part": (
        {
            "kind": "inference",
            "payload": {"prompt": {"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]}},
        },
        "unknown field; did you mean text? known are type, text",
    ),
}


@pytest.mark.parametrize(("fields", "complaint"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_field_comes_with_the_nearest_one_and_the_list(fields: dict[str, Any], complaint: str) -> None:
    """Wherever it stands."""
    with pytest.raises(InvalidJob) as caught:
        command(**fields)
    assert complaint in caught.value.message


# idempotency keys


def test_the_same_key_with_another_payload_is_refused_with_the_fields_that_differ(settings: Settings) -> None:
    """The first job is left as it is, and nothing is stored."""
    first = submit(command(1, idempotency_key="order-7", tags=["a"]), settings)

    with pytest.raises(KeyReused) as caught:
        submit(command(2, idempotency_key="order-7", tags=["a"], priority="offline"), settings)

    assert set(caught.value.details["fields"]) == {"payload.arguments.value", "priority"}  # type: ignore[arg-type]
    assert "payload.arguments.value (1 there, 2 here)" in caught.value.message
    assert first.id in caught.value.message
    assert [job.id for job in job_store(settings).list_jobs()] == [first.id]


def test_the_same_key_with_another_payload_in_one_call_is_refused(settings: Settings) -> None:
    """Neither is stored."""
    with pytest.raises(KeyReused, match=r"payload\.arguments\.value"):
        submit_many([command(1, idempotency_key="k"), command(2, idempotency_key="k")], settings)
    assert job_store(settings).list_jobs() == []


def test_the_same_content_gives_the_first_id_also_after_a_failure(settings: Settings) -> None:
    """Until it is retried, it has failed."""
    first = submit(command(1, idempotency_key="k"), settings)
    store = open_working_store(settings.database_url)
    (claim,) = store.claim(ClaimRequest("w", 1, 10.0))
    failure = InvalidJob("bad").failure()
    store.finish(claim, Outcome.failed(failure))
    store.close()

    assert submit(command(1, idempotency_key="k"), settings).id == first.id
    with pytest.raises(KeyReused):
        submit(command(5, idempotency_key="k"), settings)


def test_two_ways_to_write_the_same_content_are_the_same(settings: Settings) -> None:
    """Defaults, lists and tuples, and time zones make no difference."""
    first = submit(
        command(1, idempotency_key="k", constraints={"deadline": "2999-01-01T12:00:00+02:00"}, tags=["a"]), settings
    )
    again = command(
        1,
        idempotency_key="k",
        constraints={"deadline": "2999-01-01T10:00:00Z", "depends_on": []},
        tags=("a",),
        priority="batch",
    )
    assert submit(again, settings).id == first.id


def test_a_batch_is_submitted_again_after_its_output_is_there(settings: Settings, tmp_path: Path) -> None:
    """What can have changed since the first submit is not held against the second."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi", "options": {"model": "tiny-lm"}}\n')
    payload = {"input": {"path": str(tmp_path / "prompts.jsonl")}, "output": str(tmp_path / "answers.jsonl")}
    batch = {"kind": "inference", "backend": "fake", "payload": payload, "idempotency_key": "k"}
    first = submit(Job.parse(batch), settings)
    (tmp_path / "answers.jsonl").write_text("the answers")

    assert submit(Job.parse(batch), settings).id == first.id
    with pytest.raises(InvalidJob, match=r"payload\.output: .*exists already"):
        submit(Job.parse({**batch, "idempotency_key": "other"}), settings)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("payload.teacher.model", {"teacher": {"model": "nobody"}}),
        ("payload.data.sources[0].teacher", {"kl": {"coef": 1.0}, "teachers": ["nobody", None]}),
    ],
)
def test_jobs_that_name_other_models_are_checked_each(tmp_path: Path, field: str, changes: dict[str, Any]) -> None:
    """Also beside a job that differs in nothing else: equal checks are made once."""
    for name in ("a", "b"):
        (tmp_path / name).write_text('{"prompt": "Say a."}\n')

    def job(changes: dict[str, Any]) -> Job:
        changes = dict(changes)
        teachers = changes.pop("teachers", [None, None])
        sources = [
            {"path": str(tmp_path / name)} | ({} if teacher is None else {"teacher": teacher})
            for name, teacher in zip("ab", teachers, strict=True)
        ]
        payload = {"method": "rl", "base_model": "tiny-lm", "data": {"sources": sources}, "max_steps": 1}
        return Job.parse({"kind": "training_step", "backend": "fake", "payload": payload | changes})

    good = {name: {"coef": 1.0} if name == "kl" else {} for name in changes if name != "teachers"}
    assert len(validate_jobs([job(good), job(good)], timeout_s=5.0)) == 2
    with pytest.raises(InvalidJob) as refused:
        validate_jobs([job(good), job(changes)], timeout_s=5.0)
    assert refused.value.message.startswith(field)
