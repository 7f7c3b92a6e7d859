"""A killed batch, and a killed run on the answers of one, go on at a worker with another disk."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, submit, submit_many
from nsai_work.inference.answers import unpacked
from tests.rig import Rig, until

PROMPTS, ANSWERED, CONCURRENCY = 24, 6, 4


@pytest.fixture
def server(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevServer]:
    """A service that takes a while for each answer, and journals what it samples."""
    with DevServer(tmp_path / "service", work_ms=60) as opened:
        for name, value in {"TINKER_BASE_URL": opened.url, "TINKER_API_KEY": DEV_KEY}.items():
            rig.variables[name] = value
            monkeypatch.setenv(name, value)
        yield opened


@pytest.mark.parametrize(
    "rig", ["embedded", pytest.param("redis", marks=[pytest.mark.postgres, pytest.mark.redis])], indirect=True
)
def test_a_killed_batch_is_completed_by_a_worker_with_another_disk(
    rig: Rig, server: DevServer, tmp_path: Path
) -> None:
    """Each prompt is answered once, in order; what the store had before the kill is not paid for again.

    The service's own journal is the witness: each prompt has another length.
    """
    source, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    options = {"model": "tiny-lm", "max_tokens": 4, "seed": 0}
    source.write_text(
        "".join(json.dumps({"prompt": "x" * n, "id": n, "options": options}) + "\n" for n in range(1, PROMPTS + 1))
    )
    payload = {"input": {"path": str(source)}, "output": str(output), "concurrency": CONCURRENCY}
    handle = submit(Job.parse({"kind": "inference", "backend": "tinkex", "payload": payload}), rig.settings())
    source.unlink()

    def sampled() -> list[int]:
        return [entry["prompt_tokens"] for entry in server.log(kind="sample")]

    first = rig.start_worker(home=tmp_path / "first")
    until(lambda: len(rig.store.answers(handle.id)) >= ANSWERED, "it is under way", first.text)
    first.kill()
    kept = [unpacked(row) for row in rig.store.answers(handle.id)]
    assert len(kept) < PROMPTS
    assert not output.exists()
    rig.start_worker(home=tmp_path / "second")
    result = handle.result(timeout=120)

    assert (result["rows"], result["succeeded"], result["failed"]) == (PROMPTS, PROMPTS, 0)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == [*range(1, PROMPTS + 1)]
    assert rows == [*handle.results()]
    assert [row for row in rows if row["line"] in {each["line"] for each in kept}] == kept
    lengths = [row["completion"]["usage"]["prompt_tokens"] for row in rows]
    assert len(set(lengths)) == PROMPTS
    asked = Counter(sampled())
    assert {
        length: asked[length] for row, length in zip(rows, lengths, strict=True) if row in kept
    } == dict.fromkeys([each["completion"]["usage"]["prompt_tokens"] for each in kept], 1)
    assert set(asked) == set(lengths)
    # besides, only what was under way at the kill
    assert asked.total() <= PROMPTS + CONCURRENCY
    assert (result["prompt_tokens"], result["completion_tokens"]) == (
        sum(lengths),
        sum(row["completion"]["usage"]["completion_tokens"] for row in rows),
    )


@pytest.mark.parametrize(
    "rig", [pytest.param("redis", marks=[pytest.mark.postgres, pytest.mark.redis])], indirect=True
)
def test_a_killed_run_on_the_answers_of_a_batch_is_continued_on_another_disk(
    rig: Rig, server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every loss is that of a run which was left alone, and what was read is pinned once."""
    rig.variables["NSAI_WORK_PYTHON_ALLOW"] = "tests.functions"
    rig.variables["PYTHONPATH"] = str(Path(__file__).parents[3])
    monkeypatch.setenv("NSAI_WORK_PYTHON_ALLOW", "tests.functions")
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"Number {n}"}) + "\n" for n in range(1, 11)))
    batch = Job.parse({
        "kind": "inference", "backend": "tinkex", "payload": {"input": {"path": str(source)}, "model": "tiny-lm"},
    })  # fmt: skip
    payload = {
        "base_model": "tiny-lm", "batch_size": 2, "max_steps": 24, "lora": {"rank": 4},
        "data": {"job": batch.id, "map": "tests.functions:keep_even"}, "checkpoint_policy": {"save_every": 5},
    }  # fmt: skip
    training = [Job.parse({"kind": "training_step", "backend": "tinkex", "payload": payload}) for _ in range(2)]
    _, alone = submit_many([batch, training[0]], rig.settings())
    source.unlink()
    first = rig.start_worker(home=tmp_path / "first")
    alone.result(timeout=120)

    killed = submit(training[1], rig.settings())
    until(lambda: len(killed.steps()) >= 7, "it is under way", first.text)
    first.kill()
    assert len(killed.steps()) < 24
    pinned = rig.store.pinned_reads(killed.id)
    rig.start_worker(home=tmp_path / "second")
    assert killed.result(timeout=120)["resume"] != "cold"

    assert [step.loss for step in killed.steps()] == [step.loss for step in alone.steps()]
    assert rig.store.pinned_reads(killed.id) == pinned == rig.store.pinned_reads(alone.id)
    assert [event.name for event in killed.events()].count("job.read") == 1
    assert len([event for event in killed.events() if event.name == "job.running"]) == 2
