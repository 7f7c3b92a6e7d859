"""Reads job files: a job or a list of jobs, in YAML or JSON.

Only plain data is accepted: no tags that construct objects, and no aliases, which can expand a few lines into
gigabytes. Relative paths are resolved against the directory of the file. Errors name the file, line and field.
"""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nsai_work.client.plain_data import line_of, read_plain_data
from nsai_work.client.variants import VariedField, variants
from nsai_work.credentials import refuse_credentials
from nsai_work.errors import InvalidJob
from nsai_work.files.user_paths import NotRegular, expanded, open_regular
from nsai_work.identifiers import new_job_id
from nsai_work.job import Job
from nsai_work.payloads.reads import with_renamed_jobs

MAX_BYTES = 16 << 20
_REF: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_PATH_FIELDS = (
    ("data", "path"),
    ("data", "sources", "path"),
    ("eval", "data", "path"),
    ("input", "path"),
    ("output",),
)
"""Fields of a payload that hold a path."""


def load_jobs(path: str | Path, varied: Sequence[VariedField] = (), *, tag: str = "variants") -> list[Job]:
    """Return all jobs of a file, in order; each once for every combination of the ``varied`` fields' values, which
    then has ``tag``.

    Raises:
        InvalidJob: the file cannot be read, is not plain YAML or JSON, or contains an invalid job.
    """
    file = expanded(str(path))
    data, node = read_plain_data(file, _read_text(file))
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise InvalidJob(f"{file}: contains no jobs")
    nodes = [node] if isinstance(data, dict) else [None] * len(data) if node is None else node.value
    ids = _ids_of_refs(file, entries, nodes)
    return [
        _parse_job(
            file, _without_refs(variant, ids), entry_node, f"jobs[{index}]" if isinstance(data, list) else ""
        )
        for index, (entry, entry_node) in enumerate(zip(entries, nodes, strict=True))
        for variant in _variants(file, entry, varied, tag)
    ]


def load_job(path: str | Path) -> Job:
    """Return the only job of a file.

    Raises:
        InvalidJob: as ``load_jobs``, or the file contains several jobs.
    """
    jobs = load_jobs(path)
    if len(jobs) != 1:
        raise InvalidJob(f"{path}: contains {len(jobs)} jobs; expected one")
    return jobs[0]


def is_job_file(path: str | Path) -> bool:
    """Return whether a file holds jobs and no rows: YAML, or JSON that begins with an object that has a payload."""
    file = expanded(str(path))
    if file.suffix != ".json":
        return file.suffix in (".yaml", ".yml")
    with contextlib.suppress(InvalidJob, ValueError, RecursionError):
        found = json.loads(_read_text(file))
        first = found[0] if isinstance(found, list) and found else found
        return isinstance(first, dict) and "payload" in first
    return False


def _variants(file: Path, entry: Any, varied: Sequence[VariedField], tag: str) -> list[Any]:
    try:
        return variants(entry, varied, tag)
    except InvalidJob as error:
        raise InvalidJob(f"{file}: {error.message}") from None


def _read_text(file: Path) -> str:
    try:
        with open_regular(file) as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InvalidJob(f"{file}: larger than {MAX_BYTES >> 20} MiB; put the data into a file of its own")
        return content.decode("utf-8")
    except NotRegular as error:
        raise InvalidJob(f"{file}: cannot be read: it {error}; name an existing file") from None
    except OSError as error:
        raise InvalidJob(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidJob(f"{file}: is not valid UTF-8 (byte {error.start})") from error


def _ids_of_refs(file: Path, entries: Sequence[Any], nodes: Sequence[Any]) -> dict[str, str]:
    """Return the ids of the jobs that have a ``ref``, the label by which others of the file name them."""
    ids: dict[str, str] = {}
    for index, (entry, node) in enumerate(zip(entries, nodes, strict=True)):
        if not isinstance(entry, dict) or "ref" not in entry:
            continue
        ref = entry["ref"]
        where = f"{file}{line_of(node, 'ref')}: jobs[{index}].ref: {ref!r} is not allowed"
        if not isinstance(ref, str) or not _REF.fullmatch(ref):
            raise InvalidJob(f"{where}; a ref has up to 64 letters, digits, - and _")
        if ref in ids:
            raise InvalidJob(f"{where}; another job of the file has it")
        given = entry.get("id")
        ids[ref] = given if isinstance(given, str) else new_job_id(datetime.now(UTC))
    return ids


def _without_refs(entry: Any, ids: Mapping[str, str]) -> Any:
    """Return a job with ids in the places of refs."""
    if not isinstance(entry, dict) or not ids:
        return entry
    job = {**entry, **({"id": ids[entry["ref"]]} if "ref" in entry else {})}
    job.pop("ref", None)
    if isinstance(job.get("payload"), dict):
        job["payload"] = with_renamed_jobs(job["payload"], lambda name: ids.get(name, name))
    constraints = job.get("constraints")
    if isinstance(constraints, dict) and isinstance(constraints.get("depends_on"), list):
        needs = [ids.get(name, name) if isinstance(name, str) else name for name in constraints["depends_on"]]
        job["constraints"] = {**constraints, "depends_on": needs}
    return job


def _parse_job(file: Path, entry: Any, node: Any, prefix: str) -> Job:
    if not isinstance(entry, dict):
        raise InvalidJob(f"{file}{line_of(node, '')}: {prefix or 'job'}: expected a mapping of fields to values")
    try:
        refuse_credentials(entry)
        return Job.parse(_with_absolute_paths(entry, file.absolute().parent))
    except InvalidJob as error:
        head = f"{prefix}." if prefix else ""
        lines = [f"{file}{line_of(node, line)}: {head}{line}" for line in error.message.split("\n")]
        raise InvalidJob("\n".join(lines), details=error.details) from None


def _with_absolute_paths(entry: dict[str, Any], base: Path) -> dict[str, Any]:
    payload = entry.get("payload")
    if not isinstance(payload, dict):
        return entry
    for field in _PATH_FIELDS:
        payload = _with_absolute_path(payload, field, base)
    return {**entry, "payload": payload}


def _with_absolute_path(data: dict[str, Any], field: tuple[str, ...], base: Path) -> dict[str, Any]:
    head, *rest = field
    value = data.get(head)
    if rest and isinstance(value, list):
        placed = [
            _with_absolute_path(item, tuple(rest), base) if isinstance(item, dict) else item for item in value
        ]
        return {**data, head: placed}
    if rest and isinstance(value, dict):
        return {**data, head: _with_absolute_path(value, tuple(rest), base)}
    if not rest and isinstance(value, str) and value:
        return {**data, head: str(base / expanded(value))}
    return data
