"""How an error reaches the person or script that ran the command: on stderr, once, without a traceback."""

import json
import sys

from crucible.errors import CrucibleError, Failure
from nsai_work.cli.plain_text import plain_text, shortened

MAX_LINES = 40

ADVICE = {
    "authentication_failed": "set the credential in the environment (tinkex: TINKER_API_KEY) and try again",
    "backend_unavailable": "check the service's address (tinkex: TINKER_BASE_URL) and that it runs;"
    " for a local one: nsai-work dev-server",
    "cold_optimizer": "the service restored weights without the optimizer; set recovery.on_cold_optimizer: continue"
    " to go on all the same",
    "data_changed": "put the data file back as it was, or submit a new job for the new data",
    "job_not_found": "nsai-work list shows the jobs of this store (NSAI_WORK_HOME, NSAI_WORK_DATABASE_URL)",
    "max_attempts_exceeded": "look at the checkpoints (nsai-work checkpoints ID), then: nsai-work retry ID",
    "no_checkpoint": "save earlier (checkpoint_policy.save_every), then: nsai-work retry ID",
    "out_of_credit": "top up the account; the job resumes by itself",
    "plugin_error": "nsai-work backends shows which plug-ins load and why others do not",
    "store_full": "free disk space; nothing was half-written",
    "store_unavailable": "check NSAI_WORK_DATABASE_URL and that the database runs; nsai-work doctor tells more",
    "unknown_backend": "nsai-work backends lists what is installed",
}


def report_error(error: CrucibleError, *, as_json: bool) -> None:
    """Write an error to stderr: one JSON object for scripts, else what was wrong and what to do."""
    if as_json:
        failure = error.failure().model_dump(mode="json")
        failure["advice"] = advice_for(error)
        sys.stderr.write(json.dumps({"error": failure}) + "\n")
        return
    sys.stderr.write(describe_error(error) + "\n")


def describe_error(error: CrucibleError) -> str:
    """The error as text: message, where, what to do."""
    return _describe(str(error), advice_for(error))


def describe_failure(failure: Failure) -> str:
    """A job's recorded failure as text."""
    return _describe(f"{failure.message} [{failure.code}]", advice_for(failure))


def _describe(message: str, advice: str | None) -> str:
    whole = [line for line in message.split("\n") if line] or ["(no message)"]
    # cut, then escape: a service may answer with megabytes
    lines = [plain_text(shortened(line)) for line in whole[:MAX_LINES]]
    if len(whole) > MAX_LINES:
        lines.append(f"... and {len(whole) - MAX_LINES} more")
    text = "\n".join([f"error: {lines[0]}", *(f"       {line}" for line in lines[1:])])
    return f"{text}\n  hint: {advice}" if advice else text


def advice_for(error: CrucibleError | Failure) -> str | None:
    """What to do, or None when the message already says it."""
    return ADVICE.get(error.code)
