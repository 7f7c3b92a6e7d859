"""Use of old jobs' checkpoints by jobs that have not ended: those are kept when old jobs are pruned."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from crucible.errors import InvalidRequest
from nsai_work.client.local_files import LocalFiles
from nsai_work.errors import WorkError
from nsai_work.inference.prompts import read_prompts
from nsai_work.payloads import Inference, JobKind, parse_payload


@dataclass(slots=True)
class CheckpointUse:
    """``jobs`` maps paths of checkpoints to a job that names them. ``unread`` are jobs whose prompts this machine
    cannot read, so that it is not known which models they name."""

    jobs: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def find_use(files: LocalFiles, paths: Collection[str]) -> CheckpointUse:
    """Find the jobs that have not ended and name one of ``paths``, in any field or in their prompts. ``files`` are
    those of the jobs of a store: the prompts may be gone from where they were submitted."""
    use = CheckpointUse()
    if not paths:
        return use
    for job_id, spec in files.store.open_specs():
        try:
            named = {text for text in (*_texts(spec), *_models_of_prompts(files, job_id, spec)) if text in paths}
        except (WorkError, InvalidRequest):
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


def _models_of_prompts(files: LocalFiles, job_id: str, spec: JsonValue) -> Iterator[str]:
    """The models in the prompt file of a batch. Raises WorkError, InvalidRequest if it cannot be read."""
    if not isinstance(spec, dict) or spec.get("kind") != JobKind.INFERENCE:
        return
    payload = parse_payload(JobKind.INFERENCE, spec.get("payload"))
    assert isinstance(payload, Inference)
    if payload.input is None:
        return
    with ExitStack() as held:
        local = files.localized(job_id, payload, held)
        assert isinstance(local, Inference)
        assert local.input is not None
        for row in read_prompts(Path(local.input.path)):
            if row.prompt.options.model is not None:
                yield row.prompt.options.model
