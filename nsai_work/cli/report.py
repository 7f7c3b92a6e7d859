"""How an error reaches the person or script that ran the command: on stderr, once, without a traceback."""

import json
import sys

from crucible.errors import CrucibleError, Failure
from nsai_work.cli.advice import advice_for
from nsai_work.cli.plain_text import plain_text, shortened

MOST_LINES = 40


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
    lines = [plain_text(shortened(line)) for line in whole[:MOST_LINES]]
    if len(whole) > MOST_LINES:
        lines.append(f"... and {len(whole) - MOST_LINES} more")
    text = "\n".join([f"error: {lines[0]}", *(f"       {line}" for line in lines[1:])])
    return f"{text}\n  hint: {advice}" if advice else text
