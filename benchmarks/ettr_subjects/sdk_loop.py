"""A plain loop with the official SDK that saves every 20 steps, started again from its last save after a kill."""

import json
import os
from pathlib import Path
from typing import Final

from train_loop import payload, task

from backends.tinkex_dev.server import DEV_KEY
from ettr_subjects.loop_process import LoopProcess
from ettr_subjects.timing import Result

LOOP: Final = """
import json, os, sys, time, tinker
from tinker import types
task = json.load(open(sys.argv[1]))
state, results = sys.argv[2], open(sys.argv[3], "a", buffering=1)
batches = [[types.Datum(model_input=types.ModelInput.from_ints(one["tokens"]), loss_fn_inputs={
    "target_tokens": types.TensorData(data=one["target_tokens"], dtype="int64", shape=[len(one["tokens"])]),
    "weights": types.TensorData(data=one["weights"], dtype="float32", shape=[len(one["tokens"])]),
}) for one in batch] for batch in task["batches"]]
adam = types.AdamParams(**task["adam"])
service = tinker.ServiceClient()
saved = json.load(open(state)) if os.path.exists(state) else {"step": 0}
if saved["step"]:
    client = service.create_training_client_from_state_with_optimizer(saved["path"])
else:
    client = service.create_lora_training_client(task["base_model"], rank=task["rank"], seed=0)
client = client.result() if hasattr(client, "result") else client
for step, batch in enumerate(batches, 1):
    if step <= saved["step"]:
        continue
    gradients, update = client.forward_backward(batch, "cross_entropy"), client.optim_step(adam)
    loss = gradients.result().metrics["loss:sum"]
    update.result()
    results.write(json.dumps({"step": step, "at": time.time(), "loss": loss}) + "\\n")
    if step % 20 == 0:
        path = client.save_state(f"step-{step}-{os.getpid()}").result().path
        with open(state + ".new", "w") as file:
            json.dump({"step": step, "path": path}, file)
        os.replace(state + ".new", state)
os._exit(0)
"""


class SdkRun(LoopProcess):
    """The loop in a process of its own."""

    def __init__(self, folder: Path, url: str, python: Path, steps: int) -> None:
        super().__init__(folder)
        self._url = url
        self._python = python
        self._task, self._state, self._results = (
            folder / name for name in ("task.json", "state.json", "results.jsonl")
        )
        self._task.write_text(json.dumps(task(payload(steps))))

    def command(self) -> list[str | Path]:
        """The loop's command."""
        return [self._python, "-W", "ignore", "-c", LOOP, self._task, self._state, self._results]

    def environment(self) -> dict[str, str]:
        """Its environment."""
        return os.environ | {"TINKER_BASE_URL": self._url, "TINKER_API_KEY": DEV_KEY}

    def results(self) -> list[Result]:
        """All steps, the repeated ones too."""
        return [Result(int(entry["step"]), entry["at"]) for entry in self._entries()]

    def losses(self) -> list[float]:
        """The last loss of each step."""
        by_step = {entry["step"]: entry["loss"] for entry in self._entries()}
        return [by_step[step] for step in sorted(by_step)]

    def _entries(self) -> list[dict[str, float]]:
        if not self._results.exists():
            return []
        whole = self._results.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]
