"""Jobs of one file that read what the others make: rows, models, checkpoints."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible.errors import CommandFailed
from nsai_work import Job, JobHandle, JobStatus, submit, submit_many
from nsai_work.client.connections import job_store
from nsai_work.client.jobfile import load_jobs
from nsai_work.errors import DataChanged, InvalidJob
from nsai_work.payloads.reads import PinnedRead
from nsai_work.store.schema import jobs, lanes
from nsai_work.testing import IsolatedStore, isolated_store, run_jobs

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IsolatedStore]:
    """An isolated store, in an environment that allows the functions of the examples and of the tests."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with isolated_store(tmp_path / "store") as opened:
        monkeypatch.setenv("NSAI_WORK_PYTHON_ALLOW", "functions,tests.functions")
        yield opened


@pytest.mark.parametrize("backend", ["fake", "tinkex"])
@pytest.mark.usefixtures("store")
def test_the_example_samples_filters_trains_and_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Four jobs, each with what the one before it has made."""
    with DevServer(tmp_path / "service") as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        jobs = load_jobs(EXAMPLES / "pipeline.yaml")
        handles = submit_many(
            [job if job.backend == "python" else job.model_copy(update={"backend": backend}) for job in jobs]
        )
        sample, kept, train, evaluate = handles
        assert [handle.job().constraints.depends_on for handle in handles] == [
            (), (sample.id,), (kept.id,), (train.id,)
        ]  # fmt: skip
        run_jobs()

        rows = [*kept.results()]
        assert 0 < len(rows) <= len([*sample.results()])
        result = train.result(timeout=0)
        assert (result["steps"], evaluate.result(timeout=0)["succeeded"]) == (6, 6)
        models = {row["completion"]["model"] for row in evaluate.results()}
        assert models == {result["model"]}
        [read] = [event.data["fields"] for event in train.events() if event.name == "job.read"]
        assert read["payload.data"]["rows"] == read["payload.data"]["used"] == len(rows)


PROMPTS = 5
TRAIN: dict[str, Any] = {"base_model": "tiny-lm", "batch_size": 2, "max_steps": 4, "lora": {"rank": 4}}


def job(kind: str, payload: dict[str, Any], backend: str = "fake", **fields: Any) -> Job:
    """A job."""
    return Job.parse({"kind": kind, "backend": backend, "payload": payload, **fields})


def training(data: dict[str, Any], **fields: Any) -> Job:
    """A small training job on these data."""
    return job("training_step", {**TRAIN, "data": data, **fields})


@pytest.fixture
def batch(store: IsolatedStore, tmp_path: Path) -> Job:
    """A batch of prompts, not submitted yet."""
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"Number {n}", "id": n}) + "\n" for n in range(PROMPTS)))
    return job("inference", {"input": {"path": str(source)}, "model": "tiny-lm"})


@pytest.fixture
def trained(store: IsolatedStore, tmp_path: Path) -> JobHandle:
    """A training job that has ended, with checkpoints of the steps 2 and 4."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(4)))
    handle = submit(training({"path": str(data)}, checkpoint_policy={"save_every": 2}))
    run_jobs()
    return handle


def reads(handle: JobHandle) -> Any:
    """What a job has read, as its events say."""
    return [event.data["fields"] for event in handle.events() if event.name == "job.read"]


@pytest.mark.parametrize("place", ["data", "sources", "eval"])
def test_the_answers_of_a_batch_are_rows_mapped_or_dropped(
    store: IsolatedStore, batch: Job, tmp_path: Path, place: str
) -> None:
    """As data, as a part of a mixture, as data of an evaluation; the prompts may be gone from the disk."""
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"text": "Own"}) + "\n")
    rows = {"job": batch.id, "map": "tests.functions:keep_even"}
    payload: dict[str, Any] = {
        "data": {"data": rows},
        "sources": {"data": {"sources": [{"path": str(own)}, {**rows, "weight": 3.0}]}},
        "eval": {"data": {"path": str(own)}, "eval": {"data": rows}},
    }[place]
    batch_handle, handle = submit_many([batch, training(**payload)])
    Path(str(batch_handle.job().payload["input"]["path"])).unlink()
    own.unlink()
    run_jobs()

    result = handle.result(timeout=0)
    field = {"data": "payload.data", "sources": "payload.data.sources[1]", "eval": "payload.eval.data"}[place]
    [found] = reads(handle)
    assert (found[field]["job"], found[field]["rows"], found[field]["used"]) == (batch.id, PROMPTS, 2)
    assert store_reads(store, handle)[field] == PinnedRead.model_validate(found[field])
    if place == "eval":
        assert result["evaluation"]["rows"] == 2


def store_reads(store: IsolatedStore, handle: JobHandle) -> dict[str, PinnedRead]:
    """What the store has pinned."""
    return job_store(store.settings).pinned_reads(handle.id)


def test_without_a_function_answers_are_conversations(batch: Job) -> None:
    """Of the prompt and its answer."""
    _, handle = submit_many([batch, training({"job": batch.id})])
    run_jobs()
    assert handle.result(timeout=0)["steps"] == 4
    assert reads(handle)[0]["payload.data"]["used"] == PROMPTS


def test_every_attempt_reads_the_same(store: IsolatedStore, batch: Job) -> None:
    """What was read is pinned: a function that makes something else of it fails the next attempt."""
    rows = {"job": batch.id, "map": "tests.functions:keep_even"}
    changed = training({**rows, "map": "tests.functions:change"})
    _, steady, changing = submit_many([batch, training(rows), changed])
    run_jobs()
    before = store_reads(store, steady)
    for handle in (steady, changing):
        assert handle.status() is JobStatus.SUCCEEDED
        # as if the worker had died before it recorded the end
        requeue(store, handle)
    run_jobs()
    assert steady.status() is JobStatus.SUCCEEDED
    assert (store_reads(store, steady), len(reads(steady))) == (before, 1)
    with pytest.raises(DataChanged, match=r"payload.data: what tests.functions:change makes of .* changed"):
        changing.result(timeout=0)


def requeue(store: IsolatedStore, handle: JobHandle) -> None:
    """Queue an ended job again, with its journal."""
    database = job_store(store.settings).database
    values = {"status": "queued", "completed_at": None, "run_at": None}
    database.run(lambda tx: tx.connection.execute(update(jobs).where(jobs.c.id == handle.id).values(**values)))
    database.run(lambda tx: tx.connection.execute(update(lanes).values(active=True)))


def test_a_run_starts_with_the_weights_of_another(trained: JobHandle) -> None:
    """Of its end, its best or its newest checkpoint, or of a step; the path and the step are pinned."""
    data = trained.job().payload["data"]
    by_step = {row.step: row.path for row in trained.checkpoints()}
    for choice, step in {"final": 4, "latest": 4, "best": None, 2: 2, 4: 4}.items():
        handle = submit(training(data, init_from={"job": trained.id, "checkpoint": choice}))
        assert handle.job().constraints.depends_on == (trained.id,)
        run_jobs()
        assert handle.result(timeout=0)["steps"] == 4
        [found] = reads(handle)
        read = found["payload.init_from"]
        assert read["path"] == by_step[read["step"]]
        assert step in (None, read["step"])
    handle = submit(training(data, init_from=by_step[4]))
    run_jobs()
    assert handle.result(timeout=0)["first_loss"] < trained.result(timeout=0)["first_loss"]


def test_a_prompt_names_the_model_of_a_job(trained: JobHandle) -> None:
    """In its options, or beside it."""
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": {"max_tokens": 2}}
    inside = {**prompt, "options": {**prompt["options"], "model": {"job": trained.id}}}
    for payload in ({"prompt": inside}, {"prompt": prompt, "model": {"job": trained.id}}):
        handle = submit(job("inference", payload))
        run_jobs()
        assert handle.result(timeout=0)["model"] == trained.result(timeout=0)["model"]


BAD: dict[str, tuple[Callable[[JobHandle, Job], list[Job]], str]] = {
    "no such job": (lambda t, b: [training({"job": "nowhere"})], r"payload\.data\.job: there is no job 'nowhere'"),
    "no such job for a model": (
        lambda t, b: [job("inference", {**b.payload, "model": {"job": "nowhere"}})],
        r"payload\.model\.job: there is no job 'nowhere'",
    ),
    "itself": (
        lambda t, b: [
            training(
                {"job": "me"},
            ).model_copy(update={"id": "me"})
        ],
        r"in a circle",
    ),
    "a circle": (
        lambda t, b: [
            training({"job": "two"}).model_copy(update={"id": "one", "name": "first"}),
            job("inference", {**b.payload, "model": {"job": "one"}}).model_copy(update={"id": "two"}),
        ],
        r"jobs: (first -> jobs\[1\] -> first|jobs\[1\] -> first -> jobs\[1\]): they wait .* in a circle",
    ),
    "rows of a training job": (
        lambda t, b: [training({"job": t.id})],
        r"payload\.data\.job: \S+ is a job of kind training_step, which makes no rows",
    ),
    "weights of a batch": (
        lambda t, b: [b, training(t.job().payload["data"], init_from={"job": b.id})],
        r"payload\.init_from\.job: \S+ is a job of kind inference, which trains no model",
    ),
    "a model of a batch": (
        lambda t, b: [b, job("inference", {**b.payload, "model": {"job": b.id}})],
        r"payload\.model\.job: \S+ is a job of kind inference, which trains no model",
    ),
    "another base model": (
        lambda t, b: [training(t.job().payload["data"], base_model="llama-3.2-1b", init_from={"job": t.id})],
        r"payload\.init_from\.job: \S+ trains 'tiny-lm', and this job 'llama-3.2-1b'",
    ),
    "another rank": (
        lambda t, b: [training(t.job().payload["data"], lora={"rank": 8}, init_from={"job": t.id})],
        r"payload\.init_from\.job: \S+ trains rank 4, and this job 8",
    ),
    "other matrices": (
        lambda t, b: [
            training(t.job().payload["data"], lora={"rank": 4, "train_mlp": False}, init_from={"job": t.id})
        ],
        r"payload\.init_from\.job: \S+ trains train_mlp True, and this job False",
    ),
    "another backend": (
        lambda t, b: [job("inference", {**b.payload, "model": {"job": t.id}}, backend="openai")],
        r"payload\.model\.job: \S+ trains at 'fake', and this job runs at 'openai'",
    ),
    "a step that is not kept": (
        lambda t, b: [training(t.job().payload["data"], init_from={"job": t.id, "checkpoint": 1})],
        r"payload\.init_from\.checkpoint: 1 is not allowed; \S+ saves every 2 steps of 4",
    ),
    "a step beyond the end": (
        lambda t, b: [training(t.job().payload["data"], init_from={"job": t.id, "checkpoint": 6})],
        r"payload\.init_from\.checkpoint: 6 is not allowed",
    ),
    "a path of another model": (
        lambda t, b: [training(t.job().payload["data"], init_from="fake://nowhere/weights/x")],
        r"payload\.init_from: ",
    ),
    "a function that is not there": (
        lambda t, b: [b, training({"job": b.id, "map": "tests.functions:nothing"})],
        r"payload\.data\.map: .*the module has no such function",
    ),
    "a function without a row": (
        lambda t, b: [b, training({"job": b.id, "map": "tests.functions:add"})],
        r"payload\.data\.map: ",
    ),
}


def test_what_cannot_be_read_is_refused_at_submit(
    store: IsolatedStore, trained: JobHandle, batch: Job, subtests: pytest.Subtests
) -> None:
    """By its field, and nothing is stored."""
    before = store.jobs()
    for bad, (make, message) in BAD.items():
        with subtests.test(bad), pytest.raises(InvalidJob, match=message):
            submit_many(make(trained, batch))
        assert store.jobs() == before


def test_a_function_that_is_not_to_be_had_here_is_left_to_the_workers(store: IsolatedStore, batch: Job) -> None:
    """Unless the job will run here."""
    jobs = [batch, training({"job": batch.id, "map": "elsewhere:keep"})]
    with pytest.raises(InvalidJob, match=r"payload\.data\.map: .*elsewhere"):
        submit_many(jobs, runs_here=True)
    assert store.jobs() == []
    _, handle = submit_many(jobs)
    [reason] = [event.data["reason"] for event in handle.events() if event.name == "submit.unverified"]
    assert "payload.data.map: " in str(reason)


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "path and job": ({"data": {"path": "x", "job": "y"}}, "set either path or sources, or job"),
    "job and sources": ({"data": {"job": "y", "sources": [{"path": "x"}]}}, "set either path, job or sources"),
    "map of a file": ({"data": {"path": "x", "map": "m:f"}}, "map: only the rows of a job are mapped"),
    "digest of rows": ({"data": {"job": "x", "sha256": "0" * 64}}, "sha256: the rows of a job are pinned when"),
    "source of nothing": ({"data": {"sources": [{"weight": 1.0}]}}, "set either path, or job, whose rows are read"),
    "path and job to start": (
        {"data": {"path": "x"}, "init_from": {"path": "x", "job": "y"}},
        "set either path, that of a checkpoint, or job",
    ),
    "checkpoint of a path": (
        {"data": {"path": "x"}, "init_from": {"path": "x", "checkpoint": 3}},
        "a path names its checkpoint",
    ),
    "no checkpoint": ({"data": {"path": "x"}, "init_from": {"job": "x", "checkpoint": "finale"}}, "checkpoint"),
    "step 0": ({"data": {"path": "x"}, "init_from": {"job": "x", "checkpoint": 0}}, "checkpoint"),
    "optimizer as text": ({"data": {"path": "x"}, "init_from": {"job": "x", "optimizer": "yes"}}, "optimizer"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_fields_that_exclude_each_other_are_refused(field: str) -> None:
    """With what is allowed."""
    payload, message = FIELDS[field]
    with pytest.raises(InvalidJob, match=message):
        job("training_step", {"base_model": "m", **payload})


def test_arguments_that_are_rows_have_names_of_their_own() -> None:
    """An argument is either given or read; so is a model."""
    with pytest.raises(InvalidJob, match="inputs: a is an argument too"):
        job("tool_call", {"command": "x", "arguments": {"a": 1}, "inputs": {"a": {"job": "x"}}})
    prompt = {"messages": [], "options": {"model": {"job": "x"}}}
    with pytest.raises(InvalidJob, match="model is set too"):
        job("inference", {"prompt": prompt, "model": "m"})


def test_a_failure_of_a_function_or_of_a_job_ends_the_readers(store: IsolatedStore, batch: Job) -> None:
    """With the row, and with the reason."""
    rows = {"job": batch.id}
    _, none, third = submit_many([
        batch,
        training({**rows, "map": "tests.functions:drop"}),
        training({**rows, "map": "tests.functions:refuse_third"}),
    ])  # fmt: skip
    run_jobs()
    with pytest.raises(InvalidJob, match=rf"^payload\.data: none of the {PROMPTS} rows of job \S+ is left"):
        none.result(timeout=0)
    with pytest.raises(CommandFailed, match=r"^payload\.data\.map: row 3 of job \S+ .*raised ValueError"):
        third.result(timeout=0)
    with pytest.raises(InvalidJob, match=r"payload\.init_from\.job: \S+ has ended as failed; retry it"):
        submit(training({"job": batch.id}, init_from={"job": none.id}))


def test_a_file_that_is_submitted_again_gives_the_same_jobs(batch: Job, tmp_path: Path) -> None:
    """With idempotency keys: refs name the jobs of the first time."""
    source = batch.payload["input"]["path"]
    file = tmp_path / "jobs.yaml"
    file.write_text(
        f"""
- name: later
  idempotency_key: b
  kind: training_step
  backend: fake
  payload: {{base_model: tiny-lm, max_steps: 1, data: {{job: first-one}}}}
  constraints: {{depends_on: [first-one]}}
- ref: first-one
  idempotency_key: a
  kind: inference
  backend: fake
  payload: {{input: {{path: {source}}}, model: tiny-lm}}
"""
    )
    first, second = submit_many(load_jobs(file)), submit_many(load_jobs(file))
    assert [handle.id for handle in first] == [handle.id for handle in second]
    assert first[0].job().name == "later"
    assert first[0].job().constraints.depends_on == (first[1].id,)
    run_jobs()
    assert first[0].result(timeout=0)["steps"] == 1


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        (("a", "a"), r"line 2: jobs\[1\]\.ref: 'a' is not allowed; another job of the file has it"),
        (("a", "a b"), r"line 2: jobs\[1\]\.ref: 'a b' is not allowed; a ref has up to 64"),
        ((1, "a"), r"line 1: jobs\[0\]\.ref: 1 is not allowed"),
    ],
)
def test_refs_of_a_file_are_different_words(tmp_path: Path, refs: tuple[object, object], message: str) -> None:
    """The error names file, line and field."""
    file = tmp_path / "jobs.yaml"
    file.write_text("".join(f"- {{ref: {ref}, kind: composite, payload: {{}}}}\n" for ref in refs))
    with pytest.raises(InvalidJob, match=message):
        load_jobs(file)
