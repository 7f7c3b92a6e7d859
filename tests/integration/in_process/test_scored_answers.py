"""Inference jobs that score given answers: the model's log-probabilities, equal to the loss of an evaluation."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.local.sampler import LocalSampler
from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, submit
from nsai_work.errors import InvalidJob
from nsai_work.testing import isolated_store, run_jobs

ROWS = [
    {"messages": [{"role": "user", "content": f"{n}+1="}, {"role": "assistant", "content": f"It is {n + 1}."}]}
    for n in range(6)
]


@pytest.fixture(params=["fake", "tinkex"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A backend in this process, or the dev server."""
    if request.param == "fake":
        yield "fake"
        return
    with DevServer(tmp_path / "service", seed=3) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        yield "tinkex"


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scoring(backend: str, **payload: Any) -> Job:
    return Job.parse({"kind": "inference", "backend": backend, "payload": {"score": True, **payload}})


def test_scores_are_what_an_evaluation_says(backend: str, tmp_path: Path) -> None:
    """Under a base model: the sum over all tokens of the answers is that of the loss before the first step."""
    path = written(tmp_path / "answers.jsonl", ROWS)
    training = {
        "base_model": "tiny-lm",
        "data": {"path": path},
        "max_steps": 1,
        "batch_size": 2,
        "eval": {"every": 1, "data": {"path": path}},
    }
    with isolated_store():
        trained = submit(Job.parse({"kind": "training_step", "backend": backend, "payload": training}))
        scored = submit(scoring(backend, model="tiny-lm", input={"path": path}))
        run_jobs(timeout_s=120)
        result, rows = scored.result(), list(scored.results())
        first = trained.evaluations()[0]

    assert (result["succeeded"], result["failed"]) == (len(ROWS), 0)
    tokens = [token for row in rows for token in row["completion"]["choices"][0]["logprobs"]]
    sums = [row["completion"]["metadata"]["logprob"] for row in rows]
    assert math.fsum(sums) == pytest.approx(math.fsum(token["logprob"] for token in tokens))
    assert first.step == 0
    assert -math.fsum(sums) / len(tokens) == pytest.approx(first.metrics["eval.loss"], rel=1e-5)
    assert "".join(token["token"] for token in tokens).count("It is") == len(ROWS)
    assert [row["completion"]["choices"][0]["message"]["content"] for row in rows] == [
        row["messages"][1]["content"] for row in ROWS
    ]
    assert result["completion_tokens"] == len(tokens)


def test_a_single_answer_is_the_result_and_a_trained_model_scores_too(backend: str, tmp_path: Path) -> None:
    """Its sampling weights, by the job that trained them: what was learned is more likely."""
    path = written(tmp_path / "answers.jsonl", ROWS[:2])
    training = {"base_model": "tiny-lm", "data": {"path": path}, "max_steps": 8, "batch_size": 2}
    training["optimizer"] = {"learning_rate": 0.05}
    with isolated_store():
        trained = submit(Job.parse({"kind": "training_step", "backend": backend, "payload": training}))
        run_jobs(timeout_s=120)
        models: list[Any] = ["tiny-lm", {"job": trained.id}]
        jobs = [submit(scoring(backend, model=model, prompt=ROWS[0])) for model in models]
        run_jobs(timeout_s=120)
        before, after = [job.result()["metadata"]["logprob"] for job in jobs]

    assert before < after < 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"messages": ROWS[0]["messages"][:1]}, "has no answer to score"),
        ({"messages": [ROWS[0]["messages"][0], {"role": "assistant", "content": ""}]}, "has no answer to score"),
        ({"options": {"max_tokens": 3}}, "options.max_tokens is not allowed here"),
        ({"options": {"temperature": 0.5, "seed": 1}}, "options.seed is not allowed here"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_line(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Before anything is stored; a single prompt as well."""
    row = {**ROWS[0], **change}
    path = written(tmp_path / "answers.jsonl", [ROWS[1], row])
    with isolated_store() as store:
        with pytest.raises(InvalidJob, match=f"line 2: {named}"):
            submit(scoring("fake", model="tiny-lm", input={"path": path}))
        with pytest.raises(InvalidJob, match=f"payload.prompt: {named}"):
            submit(scoring("fake", model="tiny-lm", prompt=row))
        assert store.jobs() == []


def test_a_backend_that_scores_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    with isolated_store(), pytest.raises(Exception, match=r"payload\.score: 'openai' scores no given answers"):
        submit(scoring("openai", model="gpt-4o-mini", prompt=ROWS[0]))


@pytest.mark.parametrize("wrong", [[], [-1.0], [math.nan] * 100, [-math.inf] * 100])
def test_wrong_scores_of_a_backend_are_an_error_of_their_row(
    wrong: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few, or no numbers: none is taken for that of another token, and the other rows are scored."""
    path = written(tmp_path / "answers.jsonl", ROWS[:2])
    correct, seen = LocalSampler.score, list[int]()

    async def score(self: LocalSampler, tokens: Sequence[int]) -> Sequence[float]:
        scores = await correct(self, tokens)
        seen.append(len(scores))
        return wrong[: len(scores)] if len(seen) == 1 else scores

    monkeypatch.setattr(LocalSampler, "score", score)
    with isolated_store():
        job = submit(scoring("fake", model="tiny-lm", input={"path": path}))
        run_jobs(timeout_s=120)
        result, rows = job.result(), list(job.results())

    assert (result["succeeded"], result["failed"]) == (1, 1)
    bad, good = sorted(rows, key=lambda row: "completion" in row)
    assert "without a log-probability for each" in bad["error"]["message"]
    assert good["completion"]["metadata"]["logprob"] < 0
