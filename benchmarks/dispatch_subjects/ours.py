"""nsai-work, with an event row for each transition."""

import os
from collections.abc import Sequence

from benchmarks.dispatch_subjects import recorder
from nsai_work import Job, Settings, submit_many
from nsai_work.telemetry.job_events import JobEvent, add_hook


def work() -> None:
    from nsai_work.worker import run_worker

    # the body is the backend's no-op: the claim is recorded for latency, and the committed end
    def on_event(event: JobEvent) -> None:
        if event.name in ("job.claimed", "job.succeeded"):
            recorder.record(".ran" if event.name == "job.succeeded" else ".began", [event.job_id])

    add_hook(on_event)
    run_worker(Settings())


_settings = Settings() if "NSAI_WORK_HOME" in os.environ else None


def submit(keys: Sequence[str]) -> None:
    jobs = [Job(id=key, kind="tool_call", backend="fake", payload={"command": "noop"}) for key in keys]
    submit_many(jobs, _settings)


if __name__ == "__main__":
    recorder.main(work, submit, bulk=True)
