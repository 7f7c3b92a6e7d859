"""Reports errors on stderr: as text with a hint for people, or as one JSON object for scripts."""

import errno
import json
import os
import sys
from typing import TYPE_CHECKING

from crucible.errors import CrucibleError, Failure
from crucible.rendering.plain_text import plain_text, shortened

if TYPE_CHECKING:
    from nsai_work.job import Job

MAX_LINES = 40

ADVICE = {
    "credential_missing": "set the credential in the environment; on this machine, nsai-work dev-server needs none",
    "authentication_failed": "set the credential in the environment (tinkex: TINKER_API_KEY) and try again",
    "backend_unavailable": "check that the service is running and its address is correct (tinkex: TINKER_BASE_URL);"
    " to start a local service: nsai-work dev-server",
    "blob_damaged": "submit a job with the same file, which writes it again, or restore the place of the blobs from"
    " a copy; then retry this job",
    "blobs_unavailable": "check NSAI_WORK_BLOBS_URL, the adapter's credentials and the space at that place",
    "cold_optimizer": "the service did not restore the complete state; to accept that, submit the job again with"
    " recovery.on_cold_optimizer: continue",
    "data_changed": "restore the original data file, or submit a new job for the new data",
    "job_not_found": "nsai-work list shows the jobs in this store (NSAI_WORK_HOME, NSAI_WORK_DATABASE_URL)",
    "max_attempts_exceeded": "inspect the checkpoints (nsai-work checkpoints ID), then run nsai-work retry ID",
    "no_checkpoint": "nsai-work retry ID starts over at the first step; a lower checkpoint_policy.save_every saves"
    " checkpoints earlier",
    "out_of_credit": "add credit to the account; the job resumes automatically",
    "plugin_error": "correct the package that the error names, or install the version of it that fits; nsai-work"
    " backends shows which backends fail to load, and why; an environment is checked by importing module:Class",
    "store_full": "free disk space and try again; nothing was partially written",
    "store_unavailable": "check NSAI_WORK_DATABASE_URL and that the database is running (nsai-work doctor)",
    "unreadable_journal": "restore the database from a backup, or correct the row and run nsai-work retry ID, or"
    " submit the job again to train from the first step",
    "unknown_backend": "nsai-work backends lists the installed backends",
}
"""Advice to the user about an error, by its code."""

_TOO_MANY_FILES = os.strerror(errno.EMFILE)
_MORE_FILES = "raise the number of files that a process may open (ulimit -n), or run fewer jobs at a time"
"""Advice about an error of any code whose cause is this process."""


def report_error(error: CrucibleError, *, as_json: bool, advice: str | None = None) -> None:
    """Write an error to stderr: one JSON object if ``as_json``, else ``describe_error``. ``advice`` is what the
    user can do; by default that for the error's code."""
    if as_json:
        failure = error.failure().model_dump(mode="json")
        failure["advice"] = advice or advice_for(error)
        sys.stderr.write(json.dumps({"error": failure}) + "\n")
        return
    sys.stderr.write(describe_error(error) + "\n")


def report_job(job: "Job", *, as_json: bool) -> None:
    """Write to stderr which job did not succeed, and why: one JSON object if ``as_json``."""
    if as_json:
        failure = (
            None if job.error is None else job.error.model_dump(mode="json") | {"advice": advice_for(job.error)}
        )
        sys.stderr.write(json.dumps({"id": job.id, "status": job.status, "error": failure}) + "\n")
        return
    sys.stderr.write(plain_text(f"job {job.id} {job.status}") + "\n")
    if job.error is not None:
        sys.stderr.write(describe_failure(job.error) + "\n")


def describe_error(error: CrucibleError) -> str:
    """Format an error as text: its message and the advice for it."""
    return _describe(str(error), advice_for(error))


def describe_failure(failure: Failure) -> str:
    """Format the recorded failure of a job as text: message, code and advice."""
    return _describe(f"{failure.message} [{failure.code}]", advice_for(failure))


def advice_for(error: CrucibleError | Failure) -> str | None:
    """Return what the user can do about an error; None if its message says that already."""
    return _MORE_FILES if _TOO_MANY_FILES in error.message else ADVICE.get(error.code)


def _describe(message: str, advice: str | None) -> str:
    all_lines = [line for line in message.split("\n") if line] or ["(no message)"]
    # cut before escaping: a service may answer with megabytes
    lines = [plain_text(shortened(line)) for line in all_lines[:MAX_LINES]]
    if len(all_lines) > MAX_LINES:
        lines.append(f"... and {len(all_lines) - MAX_LINES} more lines")
    text = "\n".join([f"error: {lines[0]}", *(f"       {line}" for line in lines[1:])])
    return f"{text}\n  hint: {advice}" if advice else text
