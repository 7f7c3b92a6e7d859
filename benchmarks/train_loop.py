"""Steps per second: our driver, a plain loop with the official SDK, and the server by itself.

    python benchmarks/train_loop.py [--steps 60] [--latency-ms 50] [--sdk PYTHON]

All three train the same batches, from the same seed, on the development server in a process of its own; the losses
must come out equal. The driver runs as a job: its journal and its events go to a SQLite store. ``--latency-ms`` is
added to every HTTP call, as a network would. The server's floor is how fast it goes when it never has to wait for
its client. Times are the server's own: from one optimizer step to another, the first few left out.

Servers that need 55, 10 and 0 ms for an operation are measured, as models of some size, of a small one, and of none
at all would, where the round trips are all there is. The last one once more as a server that runs operations as
they arrive: there nothing may be sent ahead.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from own_processes import run_main
from peer_environment import NEWEST_SDK, REPOSITORY, how_to_install, peer_python

from backends.tinkex import ServiceClient, types
from backends.tinkex_dev.server import DEV_KEY, DevProcess
from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.data.dataset import load_data
from nsai_work.data.rendering.datums import shared_datums
from nsai_work.data.rendering.rules import Rendering
from nsai_work.payloads import TrainingData, TrainingStep
from nsai_work.training.plan import Plan
from nsai_work.training.sources.batches import batch_indexes

WARM_UP = 12
SEQUENTIAL_AIM = 1.8
FLOOR_AIMS = {55.0: 1.05, 10.0: 1.3, 0.0: 3.0}
"""How often the server's own time a step may take, by the milliseconds that an operation needs."""
SDK_LOOP = """
import json, sys, tinker
from tinker import types
task = json.load(open(sys.argv[1]))
batches = [[types.Datum(model_input=types.ModelInput.from_ints(one["tokens"]), loss_fn_inputs={
    "target_tokens": types.TensorData(data=one["target_tokens"], dtype="int64", shape=[len(one["tokens"])]),
    "weights": types.TensorData(data=one["weights"], dtype="float32", shape=[len(one["tokens"])]),
}) for one in batch] for batch in task["batches"]]
adam = types.AdamParams(**task["adam"])
client = tinker.ServiceClient().create_lora_training_client(task["base_model"], rank=task["rank"], seed=0).result()
losses = []
for batch in batches:
    losses.append(client.forward_backward(batch, "cross_entropy").result().metrics["loss:sum"])
    client.optim_step(adam).result()
json.dump(losses, open(sys.argv[2], "w"))
import os; os._exit(0)
"""


@dataclass(frozen=True)
class Measured:
    """Seconds of one step, and what each step's loss was (summed over its tokens)."""

    step_s: float
    losses: list[float]


def payload(steps: int) -> TrainingStep:
    """The run: the example's conversations, eight at a time."""
    data = TrainingData(path=str(REPOSITORY / "examples" / "conversations.jsonl"))
    return TrainingStep.model_validate(
        {
            "base_model": "llama-3.2-1b",
            "data": data,
            "lora": {"rank": 16, "seed": 0},
            "optimizer": {"learning_rate": 0.01},
            "batch_size": 8,
            "max_steps": steps,
            "checkpoint_policy": {"strategy": "last"},
        }
    )


def task(run: TrainingStep) -> dict[str, Any]:
    """The same run for a loop of one's own: its batches and its optimizer as plain JSON."""
    datums = shared_datums(load_data(run.data), Rendering(ByteTokenizer(), run.max_tokens))
    plan = Plan.of(run, len(datums))
    batches = [
        [
            {"tokens": list(one.tokens), **{name: list(values) for name, values in one.loss_inputs.items()}}
            for one in datums.batch(batch_indexes(plan, step))
        ]
        for step in range(1, plan.total_steps + 1)
    ]
    adam = run.optimizer.model_dump(exclude={"name"})
    return {"base_model": run.base_model, "rank": run.lora.rank, "batches": batches, "adam": adam}


def measure(work: Callable[[DevProcess, Path], list[float]], *arguments: str) -> Measured:
    """Let ``work`` train on a fresh server; the server says how long its steps took."""
    with tempfile.TemporaryDirectory() as folder, DevProcess(Path(folder) / "server", *arguments) as server:
        losses = work(server, Path(folder))
        times = [datetime.fromisoformat(entry["time"]) for entry in server.log(kind="optim_step")]
    return Measured((times[-1] - times[WARM_UP]).total_seconds() / (len(times) - 1 - WARM_UP), losses)


def sdk_loop(python: Path, run: TrainingStep) -> Callable[[DevProcess, Path], list[float]]:
    """The loop of a plain script: one request, its answer, the next request."""

    def work(server: DevProcess, folder: Path) -> list[float]:
        given, found = folder / "task.json", folder / "losses.json"
        given.write_text(json.dumps(task(run)))
        environment = os.environ | {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}
        subprocess.run([python, "-W", "ignore", "-c", SDK_LOOP, given, found], check=True, env=environment)
        losses: list[float] = json.loads(found.read_text())
        return losses

    return work


def driver(run: TrainingStep) -> Callable[[DevProcess, Path], list[float]]:
    """The same as a job, worked in this process."""

    def work(server: DevProcess, folder: Path) -> list[float]:
        from nsai_work import Job, Settings, submit
        from nsai_work.worker import run_inline

        os.environ.update({"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY})
        settings = Settings(home=folder / "home", log_level="warning")
        handle = submit(Job(kind="training_step", backend="tinkex", payload=run.model_dump(mode="json")), settings)
        run_inline([handle.id], settings)
        handle.result(timeout=10)
        return [step.metrics["loss:sum"] for step in handle.steps()]

    return work


def flat_out(run: TrainingStep) -> Callable[[DevProcess, Path], list[float]]:
    """Everything sent before the first answer is looked at: the server never waits."""

    def work(server: DevProcess, _: Path) -> list[float]:
        given = task(run)
        adam = types.AdamParams(**given["adam"])
        with ServiceClient(DEV_KEY, server.url) as service:
            client = service.create_lora_training_client(given["base_model"], given["rank"], 0)
            sent = []
            for batch in given["batches"]:
                sent.append(client.forward_backward([_datum(one) for one in batch], "cross_entropy"))
                last = client.optim_step(adam)
            last.result()
            return [gradients.result().metrics["loss:sum"] for gradients in sent]

    return work


def _datum(one: dict[str, Any]) -> types.Datum:
    inputs = {name: one[name] for name in ("target_tokens", "weights")}
    return types.Datum(model_input=types.ModelInput.from_ints(one["tokens"]), loss_fn_inputs=inputs)


def main() -> int:
    """Measure all servers; 1 if an aim is missed or the losses differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--sdk", type=Path, default=peer_python(NEWEST_SDK))
    chosen = parser.parse_args()
    if chosen.sdk is None:
        parser.error(f"--sdk: the official SDK is not there; {how_to_install(NEWEST_SDK)}")
    run = payload(chosen.steps)
    missed = [compare(run, chosen.sdk, chosen.latency_ms, work_ms) for work_ms in FLOOR_AIMS]
    missed.append(compare(run, chosen.sdk, chosen.latency_ms, 0.0, order="arrival"))
    return int(any(missed))


def compare(run: TrainingStep, sdk: Path, latency_ms: float, work_ms: float, *, order: str = "seq_id") -> bool:
    """Measure one kind of server and print it; return whether an aim is missed."""
    server, latency = ("--work-ms", str(work_ms), "--order", order), ("--latency-ms", str(latency_ms))
    floor = measure(flat_out(run), *server)
    ours = measure(driver(run), *server, *latency)
    theirs = measure(sdk_loop(sdk, run), *server, *latency)
    floor_aim = FLOOR_AIMS[work_ms] if order == "seq_id" else None
    print(f"{latency_ms:g} ms added to every call, {work_ms:g} ms to every operation, which run by {order}:")
    for name, found in (("server alone", floor), ("our driver", ours), ("SDK, one by one", theirs)):
        print(f"  {name:16} {1 / found.step_s:6.2f} steps/s  {found.step_s * 1000:7.1f} ms/step")
    speedup, above = theirs.step_s / ours.step_s, ours.step_s / floor.step_s
    print(f"  driver / SDK loop: {speedup:.2f}x (aim: at least {SEQUENTIAL_AIM}x)")
    print(f"  driver's step / server's own: {above:.3f}" + (f" (aim: at most {floor_aim})" if floor_aim else ""))
    equal = ours.losses == theirs.losses == floor.losses
    print(f"  losses equal, step by step: {equal}", flush=True)
    return speedup < SEQUENTIAL_AIM or not equal or (floor_aim is not None and above > floor_aim)


if __name__ == "__main__":
    run_main(main)
