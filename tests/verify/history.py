"""A history: the acts of each party in its own order, read from its lines. Standard library only."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Act = dict[str, Any]
Owner = tuple[str, int]
"""A job's id and a fencing token."""

WRITES = ("begin_run", "intend", "complete_step", "complete_evaluation", "plan_checkpoint", "commit_checkpoint")
ENDS = ("finish", "requeue", "reclaim")


class Unreadable(Exception):
    """A history with lines that are missing or damaged: nothing can be concluded from it."""


@dataclass(frozen=True)
class Violation:
    """An act that must not happen, with the rule that it breaks."""

    rule: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.about}: {self.text}"


@dataclass
class History:
    """The acts of each party in its own order, and the effects in the order of the dev server."""

    parties: dict[str, list[Act]]
    effects: list[Act] = field(default_factory=list)
    complete: bool = False
    """Whether all jobs should have ended."""

    def acts(self, *names: str, phase: str | None = None) -> Iterator[tuple[str, Act]]:
        """Yield the acts of these names with their parties, in the order of each party."""
        for party, acts in self.parties.items():
            for act in acts:
                if act["act"] in names and phase in (None, act["phase"]):
                    yield party, act


def read_history(folder: Path, effects: Path | None = None, *, complete: bool = False) -> History:
    """Read a folder. Raises Unreadable."""
    parties = {path.stem: _read_party(path) for path in sorted(folder.glob("party-*.jsonl"))}
    if not any(parties.values()):
        raise Unreadable(f"{folder}: nobody wrote anything")
    return History(parties, [] if effects is None else list(read_lines(effects)), complete)


def _read_party(path: Path) -> list[Act]:
    acts = list(read_lines(path))
    numbers = [act["n"] for act in acts]
    if numbers != list(range(1, len(acts) + 1)):
        raise Unreadable(f"{path}: its lines are not numbered without gaps")
    return acts


def read_lines(path: Path) -> Iterator[Act]:
    """Yield the lines of a file."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            if line:
                yield json.loads(line)
        except ValueError:
            # the last line of a process that was killed may be cut short
            if number < len(lines):
                raise Unreadable(f"{path}, line {number}: not JSON") from None


def owner_of(act: Act) -> Owner:
    """The owner that acted."""
    return (act["job"], act["fence"])


def name_of(owner: Owner) -> str:
    """An owner for people."""
    return f"job {owner[0]}, fence {owner[1]}"
