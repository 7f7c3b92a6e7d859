"""Runs that learn from what another job has made: a reference, a teacher, the teacher of a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible import ByteTokenizer, Options, Prompt, connect
from crucible.errors import InvalidRequest
from nsai_work import Job, JobHandle, submit
from nsai_work.cli.model_choice import chosen_model
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.errors import InvalidJob
from nsai_work.testing import isolated_store, run_jobs

TRAIN: dict[str, Any] = {"base_model": "tiny-lm", "batch_size": 2, "max_steps": 4, "lora": {"rank": 4}}


def training(**fields: Any) -> Job:
    """A small training job."""
    return Job.parse({"kind": "training_step", "backend": "fake", "payload": {**TRAIN, **fields}})


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[JobHandle]:
    """A training job that has ended, with checkpoints of the steps 2 and 4."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(4)))
    with isolated_store(tmp_path / "store"):
        handle = submit(training(data={"path": str(data)}, checkpoint_policy={"save_every": 2}))
        run_jobs()
        yield handle


@pytest.mark.parametrize("field", ["reference", "teacher", "sources"])
def test_a_run_learns_from_what_another_has_made(trained: JobHandle, tmp_path: Path, field: str) -> None:
    """Its reference, its teacher, or the teacher of a file is a checkpoint of another job: pinned, and renamed with
    the jobs of a file."""
    pairs, text = tmp_path / "pairs.jsonl", {"path": str(tmp_path / "data.jsonl")}
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    early = {"job": trained.id, "checkpoint": 2}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "reference": ("payload.reference", {"method": "dpo", "data": {"path": str(pairs)}, "reference": early}),
        "teacher": ("payload.teacher", {"method": "distill", "data": text, "teacher": early, "top_k": 2}),
        "sources": (
            "payload.data.sources[0].teacher",
            {"method": "distill", "data": {"sources": [{**text, "teacher": early}]}, "top_k": 2},
        ),
    }
    place, payload = cases[field]
    handle = submit(training(**payload))
    assert handle.job().constraints.depends_on == (trained.id,)
    run_jobs()

    assert handle.result(timeout=0)["steps"] == 4
    [read] = [event.data["fields"] for event in handle.events() if event.name == "job.read"]
    assert (read[place]["job"], read[place]["step"]) == (trained.id, 2)
    for wrong, message in ((trained.id[:-4] + "0000", "there is no job"), (handle.id, r"rank|checkpoint")):
        bad = json.loads(json.dumps(payload).replace(trained.id, wrong).replace(": 2}", ": 3}"))
        with pytest.raises(InvalidJob, match=message) as caught:
            submit(training(**bad))
        assert place in caught.value.message


def test_a_state_is_saved_for_sampling_where_a_service_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint before the last has no sampling weights of its own: they are saved once, for all jobs and
    commands. The final state stays the final one."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(4)))
    with DevServer(tmp_path / "server") as server, isolated_store(tmp_path / "store"):
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        common: dict[str, Any] = {"data": {"path": str(data)}, "checkpoint_policy": {"save_every": 2}}
        made = submit(training(**common).model_copy(update={"backend": "tinkex"}))
        run_jobs()
        fields = {"method": "distill", "teacher": {"job": made.id, "checkpoint": 2}, "top_k": 2}
        handle = submit(training(**common, **fields).model_copy(update={"backend": "tinkex"}))
        run_jobs()
        result = handle.result(timeout=0)
        [read] = [event.data["fields"] for event in handle.events() if event.name == "job.read"]
        assert result["steps"] == 4
        assert read["payload.teacher"]["step"] == 2
        path = read["payload.teacher"]["path"]
        assert "/sampler_weights/" in path
        names = {row.step: row.name for row in made.checkpoints()}
        for model, choice in ((f"{made.id[-8:]}:2", None), (made.id, names[2]), (made.id, "2")):
            assert chosen_model(model, None, choice) == ("tinkex", path)
        assert capsys.readouterr().err == ""
        assert [event.data for event in made.events() if event.name == "checkpoint.sampler_saved"] == [
            {"name": names[2], "step": 2, "path": path}
        ]
        assert chosen_model(made.id, None, None)[1] == made.result(timeout=0)["model"] != path
        with pytest.raises(InvalidRequest, match="--checkpoint: 'best' is not allowed; --model names '2'"):
            chosen_model(f"{made.id}:2", None, "best")


def test_a_command_saves_a_state_for_sampling_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model answers as the state does. A state that is gone is refused by the checkpoint's name, and stays
    without weights."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(4)))
    with DevServer(tmp_path / "server") as server, isolated_store(tmp_path / "store"):
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        fields: dict[str, Any] = {"data": {"path": str(data)}, "checkpoint_policy": {"save_every": 1}}
        made = submit(training(**fields).model_copy(update={"backend": "tinkex"}))
        run_jobs()
        rows = {row.step: row for row in made.checkpoints()}
        _, path = chosen_model(f"{made.id}:1", None, None)
        said = capsys.readouterr().err
        assert f"{rows[1].name} had only the training state of step 1: loaded, and saved for sampling as" in said
        assert str(path) in said
        with connect("tinkex") as service:
            prompt = Prompt(messages=[{"role": "user", "content": "Hi"}], options=Options(model=path, max_tokens=2))
            assert service.complete(prompt).model == path
        run_blocking(_delete(str(rows[2].path)))
        with pytest.raises(InvalidRequest, match="cannot be saved for sampling") as caught:
            chosen_model(f"{made.id}:2", None, None)
        assert rows[2].name in caught.value.message
        assert [row.sampler_path for row in made.checkpoints() if row.step <= 2] == [path, None]


async def _delete(path: str) -> None:
    async with TinkexBackend() as backend:
        await backend.delete_checkpoint(path)


def test_the_tokens_of_a_teacher_that_another_job_trains_are_checked_at_submit(
    trained: JobHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its base model is another one. A worker checks them again, since a service may be away at submit."""

    async def tokenizer(backend: FakeBackend, base_model: str) -> ByteTokenizer:
        return ByteTokenizer() if base_model == "tiny-lm" else Shifted()

    text = {"path": str(tmp_path / "data.jsonl")}
    teacher = {"job": trained.id}

    def student() -> Job:
        return training(data=text, method="distill", teacher=teacher, top_k=2, base_model="llama-3.2-1b")

    handle = submit(student())
    monkeypatch.setattr(FakeBackend, "tokenizer", tokenizer)
    with pytest.raises(InvalidJob, match=r"payload\.teacher\.job: .*'tiny-lm'.* not those of 'llama-3\.2-1b'"):
        submit(student())
    run_jobs()
    with pytest.raises(InvalidJob, match=r"payload\.teacher: .*its tokens are those of 'tiny-lm'"):
        handle.result(timeout=0)


class Shifted(ByteTokenizer):
    """A tokenizer with other tokens."""

    def encode(self, text: str) -> list[int]:
        return [token + 1 for token in super().encode(text)]
