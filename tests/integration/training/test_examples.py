"""The examples of training with evaluations, as they are, on the fake backend and a real store."""

from pathlib import Path

import pytest

from nsai_work import submit
from nsai_work.client.jobfile import load_job
from nsai_work.errors import InvalidJob
from nsai_work.testing import isolated_store, run_jobs

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("name", ["evaluate.yaml", "dpo.yaml", "distill.yaml", "mixture.yaml"])
def test_the_example_runs(tmp_path: Path, name: str) -> None:
    """Its evaluations are recorded, and its best state is that of the best of them."""
    with isolated_store(tmp_path / "store"):
        job = load_job(EXAMPLES / name)
        handle = submit(job.model_copy(update={"backend": "fake"}))
        run_jobs()
        result = handle.result(timeout=0)

        evaluations = handle.evaluations()
        assert evaluations[0].step == 0
        assert evaluations[-1].step == result["steps"] == len(handle.steps())
        assert result["eval_loss"] == evaluations[-1].metrics["eval.loss"]
        assert result["best_eval_loss"] < result["first_eval_loss"]
        metric = job.payload["checkpoint_policy"]["best_metric"]
        known = {record.step: record.metrics[metric] for record in evaluations}
        kept = [row for row in handle.checkpoints() if row.kept]
        assert all(row.metric == known.get(row.step) for row in kept)
        assert (min if metric == "eval.loss" else max)(known[step] for step in known if step) in {
            row.metric for row in kept
        }
        if name == "evaluate.yaml":
            assert "early_stopping" in str(result.get("stopped", "early_stopping"))


def test_a_reference_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """At submit, by its field; so is a metric that neither a step nor an evaluation of the method gives."""
    with isolated_store(tmp_path / "store"):
        job = load_job(EXAMPLES / "dpo.yaml").model_copy(update={"backend": "fake"})
        for field, value in (
            ("reference", "fake://nowhere/weights/x"),
            ("checkpoint_policy", {"best_metric": "eval.accurracy"}),
            ("early_stopping", {"metric": "accuracy"}),
        ):
            with pytest.raises(InvalidJob, match=f"payload.{field}"):
                submit(job.model_copy(update={"payload": {**job.payload, field: value}}))
