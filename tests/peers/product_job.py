"""A training job of ours on a foreign server, in a process of its own that may be told to die.

``product_job.py HOME TASK``: TASK (JSON) says what to train, which folder holds ``transformers`` (for the foreign
model's tokenizer), and after which step the process kills itself. Run again, the job is taken over. Prints the
job's result and events as JSON at its end.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

TASK: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text())
# behind everything of our own environment, so that only what is not there comes from it
sys.path.append(TASK["transformers"])

from nsai_work import Job, JobHandle, Settings, submit  # noqa: E402
from nsai_work.store.records import EventRow  # noqa: E402
from nsai_work.worker import run_inline  # noqa: E402


def die_at(event: EventRow) -> None:
    """As a machine that loses power, in the middle of whatever is under way."""
    if TASK["die_after"] and event.name == "step" and event.data["step"] >= TASK["die_after"]:
        os.kill(os.getpid(), signal.SIGKILL)


def the_job(settings: Settings, note: Path) -> JobHandle:
    """The job, submitted if it has not been."""
    if not note.exists():
        handle = submit(Job(kind="training_step", backend="tinkex", payload=TASK["payload"]), settings)
        note.write_text(handle.id)
    return JobHandle(note.read_text(), settings)


def main(home: Path) -> None:
    """Work the job to its end, or die on the way."""
    settings = Settings(home=home, lease_ttl_s=2.0, poll_interval_s=0.2, log_level="warning")
    handle = the_job(settings, home.parent / "job-id")
    run_inline([handle.id], settings, on_event=die_at)
    events = [{"name": event.name, "data": event.data} for event in handle.events()]
    losses = [step.loss for step in handle.steps()]
    print(json.dumps({"result": handle.result(timeout=10), "losses": losses, "events": events}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
