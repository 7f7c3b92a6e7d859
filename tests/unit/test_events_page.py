"""docs/reference/events.md has every event of a job's log, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from crucible.recovery import RecoveryEventName
from nsai_work.journal import CheckpointStatus
from nsai_work.lifecycle import JobStatus

ROOT = Path(__file__).parents[2]
WRITERS = ("client", "inference", "sinks", "store", "training", "worker/attempts/command.py")
"""The folders and modules that append events. Others only read them, and have log lines with similar names."""

EVENT = re.compile(
    r"(alert|checkpoint|command|evaluation|inference|job|resume|run|sink|step|submit|training|wait)\.[a-z_]+"
)
COMPUTED = {
    "step",
    "evaluation",
    *(f"job.{status}" for status in JobStatus),
    *(f"checkpoint.{status}" for status in CheckpointStatus if status is not CheckpointStatus.PENDING),
    *(f"recovery.{name}" for name in RecoveryEventName),
}
"""Names that no literal of the code spells out."""


def literals(source: str) -> Iterator[str]:
    """The string constants of a module, without those in a call of its logger."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in ("log", "logger"):
                continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        pending.extend(ast.iter_child_nodes(node))


def test_every_event_is_on_its_page() -> None:
    """Found in the code by the form of its name."""
    sources = [ROOT / "nsai_work" / name for name in WRITERS]
    files = [file for source in sources for file in (source.rglob("*.py") if source.is_dir() else [source])]
    written = {text for file in files for text in literals(file.read_text()) if EVENT.fullmatch(text)}

    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "reference" / "events.md").read_text(), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]

    assert sorted(listed) == sorted(written | COMPUTED)
