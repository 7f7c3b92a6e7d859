"""Fields of a submitted job that would change nothing."""

from collections.abc import Mapping
from typing import Any, Final

from crucible.errors import shown_value
from nsai_work.errors import InvalidJob
from nsai_work.job import NOT_ENFORCED, STATE_FIELDS, Job
from nsai_work.payloads import Inference, Payload

_UNENFORCED_PARTS: Final = frozenset(path.partition(".")[0] for path in NOT_ENFORCED)


def refuse_unused_fields(job: Job, payload: Payload) -> None:
    """Refuse fields that would change nothing: those not enforced yet, and those that the store sets.

    Raises:
        InvalidJob: the error names all of them.
    """
    given = job.model_fields_set
    unused: dict[str, str] = {}
    if not given.isdisjoint(_UNENFORCED_PARTS):
        set_paths = (path for path in NOT_ENFORCED if _value_at(job, path) is not None)
        unused |= dict.fromkeys(set_paths, "not enforced yet; leave it out")
    for name in sorted(STATE_FIELDS & given):
        if getattr(job, name) != Job.model_fields[name].default:
            unused[name] = "set by the store; leave it out"
    if isinstance(payload, Inference) and payload.prompt is not None and payload.prompt.options.stream:
        unused["payload.prompt.options.stream"] = "the answer of a job is stored whole; leave it out"
    if unused:
        raise InvalidJob(
            "\n".join(
                f"{path}: {shown_value(_value_at(job, path))} is not allowed: {why}" for path, why in unused.items()
            ),
            details={"fields": [*unused]},
        )


def _value_at(job: Job, path: str) -> object:
    value: Any = job
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
    return value
