"""nsai-work: durable jobs, every transition an event row."""

import os
from collections.abc import Sequence

from benchmarks.dispatch_subjects import book
from nsai_work import Job, Settings, submit_many
from nsai_work.telemetry import JobEvent, add_hook


def work() -> None:
    from nsai_work.worker import run_worker

    # the body is the backend's no-op; what is noted is the claim (for latency) and the committed end
    def note(event: JobEvent) -> None:
        if event.name in ("job.claimed", "job.succeeded"):
            book.note(".ran" if event.name == "job.succeeded" else ".began", [event.job_id])

    add_hook(note)
    run_worker(Settings())


_settings = Settings() if "NSAI_WORK_HOME" in os.environ else None


def submit(keys: Sequence[str]) -> None:
    jobs = [Job(id=key, kind="tool_call", backend="fake", payload={"command": "noop"}) for key in keys]
    submit_many(jobs, _settings)


if __name__ == "__main__":
    book.main(work, submit, bulk=True)
