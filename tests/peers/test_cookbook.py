"""The official cookbook's supervised loop, unchanged, on our development server."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from plan import Plan, plan
from provision import HERE

from backends.tinkex import ServiceClient, types
from backends.tinkex_dev.server import DEV_KEY, DevServer

STEPS, DIES_AFTER = 6, 4


@pytest.fixture
def asked() -> Plan:
    """Six batches, and a save after every third step."""
    return plan("llama-3.2-1b", steps=STEPS)


def test_the_cookbook_trains_dies_and_resumes_with_the_numbers_of_our_client(
    asked: Plan, provided: Any, tmp_path: Path
) -> None:
    """The loop ends early, loses its last note, and goes on from its own checkpoint, optimizer included; the losses
    are those of our client, which takes the same batches without a stop.

    The loop notes the batch at which it saved as the next one, though the save holds that batch's step already; so
    it takes that batch twice, and keeps what it measured the second time.
    """
    python = provided("cookbook")
    taken = [*range(DIES_AFTER), *range(DIES_AFTER - 1, STEPS)]

    with DevServer(tmp_path / "server", seed=3) as server:
        log = train(python, server.url, asked, tmp_path, steps=DIES_AFTER)
        forget_the_end(log / "checkpoints.jsonl")
        train(python, server.url, asked, tmp_path, steps=STEPS)
        measured, theirs = losses_of(log / "metrics.jsonl")
        with ServiceClient(DEV_KEY, server.url) as service:
            ours = our_losses(service, asked, taken)

    assert measured == [*range(STEPS)]
    del ours[DIES_AFTER - 1]
    assert theirs == pytest.approx(ours, rel=1e-6)


def train(python: Path, url: str, asked: Plan, folder: Path, *, steps: int) -> Path:
    """Run the loop in its own environment; returns its log folder."""
    plan_file, log = folder / "plan.json", folder / "log"
    plan_file.write_text(json.dumps(asked))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    environment = os.environ | offline | {"TINKER_BASE_URL": url, "TINKER_API_KEY": DEV_KEY}
    done = subprocess.run(
        [python, HERE / "cookbook_round.py", plan_file, log, str(steps)],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return log


def forget_the_end(notes: Path) -> None:
    """Leave the loop's notes as if it had died before its end."""
    kept = [line for line in notes.read_text().splitlines() if json.loads(line)["name"] != "final"]
    notes.write_text("\n".join(kept) + "\n")


def losses_of(metrics: Path) -> tuple[list[int], list[float]]:
    """The steps that were measured, in order, and the nats per token of each."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    measured = [row for row in rows if "train_mean_nll" in row]
    return [row["step"] for row in measured], [row["train_mean_nll"] for row in measured]


def our_losses(service: ServiceClient, asked: Plan, taken: list[int]) -> list[float]:
    """The same batches with our client. The loop gives no seed, so neither do we."""
    client = service.create_lora_training_client(asked["base_model"], asked["rank"])
    # what the loop sends as its optimizer
    adam = types.AdamParams(learning_rate=asked["adam"]["learning_rate"], beta1=0.9, beta2=0.95, eps=1e-8)
    losses = []
    for batch in (asked["batches"][index] for index in taken):
        data = [
            types.Datum(
                model_input=types.ModelInput.from_ints(one["tokens"]),
                loss_fn_inputs={name: one[name] for name in ("target_tokens", "weights")},
            )
            for one in batch
        ]
        output = client.forward_backward(data, "cross_entropy").result(60)
        client.optim_step(adam).result(60)
        losses.append(output.metrics["loss:sum"] / sum(sum(one["weights"]) for one in batch))
    return losses
