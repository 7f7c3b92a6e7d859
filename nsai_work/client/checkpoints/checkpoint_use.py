"""Use of old jobs' checkpoints by jobs that have not ended: those are kept when old jobs are pruned."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from nsai_work.errors import InvalidJob
from nsai_work.inference.prompts import read_prompts
from nsai_work.payloads import JobKind

if TYPE_CHECKING:
    from nsai_work.store import Store


@dataclass(slots=True)
class CheckpointUse:
    """``jobs`` maps paths of checkpoints to a job that names them. ``unread`` are jobs whose prompts this machine
    cannot read, so that it is not known which models they name."""

    jobs: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def find_use(store: "Store", paths: Collection[str]) -> CheckpointUse:
    """Find the jobs that have not ended and name one of ``paths``, in any field or in their prompts."""
    use = CheckpointUse()
    if not paths:
        return use
    for job_id, spec in store.open_specs():
        try:
            named = {text for text in (*_texts(spec), *_models_of_prompts(spec)) if text in paths}
        except InvalidJob:
            named = {text for text in _texts(spec) if text in paths}
            use.unread.append(job_id)
        for path in named:
            use.jobs.setdefault(path, job_id)
    return use


def _texts(value: JsonValue) -> Iterator[str]:
    """All texts in a JSON value, at any depth."""
    found = [value]
    while found:
        item = found.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            found.extend(item)
        elif isinstance(item, dict):
            found.extend(item.values())


def _models_of_prompts(spec: JsonValue) -> Iterator[str]:
    """The models in the prompt file of a batch. Raises InvalidJob if it cannot be read."""
    payload = spec.get("payload") if isinstance(spec, dict) and spec.get("kind") == JobKind.INFERENCE else None
    source = payload.get("input") if isinstance(payload, dict) else None
    path = source.get("path") if isinstance(source, dict) else None
    if isinstance(path, str):
        for row in read_prompts(Path(path)):
            if row.prompt.options.model is not None:
                yield row.prompt.options.model
