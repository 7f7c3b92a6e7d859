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

import yaml

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
    text = _read_text(file)
    node = _compose(file, text)
    data = _construct(file, node)
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise InvalidJob(f"{file}: contains no jobs")
    nodes = node.value if isinstance(data, list) else [node]
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


class _Loader(yaml.SafeLoader):
    """Loads plain data only. Rejects aliases, and reports values that cannot be converted with their line."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(problem="aliases are not supported", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            problem = f"{str(node.value)[:40]!r} is not a valid {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from error


def _read_numbers_as_json() -> None:
    """Replace the numbers of YAML 1.1, to which 1e-4 is text, 1:30 is 90 and 010 is 8: a number is what JSON or
    YAML 1.2 takes for one, and thousands may still be set apart by underscores."""
    integer, real = (f"tag:yaml.org,2002:{name}" for name in ("int", "float"))
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (integer, real)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, pattern, first in (
        (integer, r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
        (real, r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?", "-+.0123456789"),
        (real, r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]{1,3}", "-+0123456789"),
        (real, r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ):
        _Loader.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), list(first))


_read_numbers_as_json()


def _compose(file: Path, text: str) -> Any:
    try:
        # JSON is YAML, except for tabs between tokens and a few rare escapes
        node = yaml.compose(_without_tabs(text), Loader=_Loader)
    except yaml.YAMLError as error:
        raise _syntax_error(file, error) from error
    except RecursionError as error:
        raise InvalidJob(f"{file}: nested too deeply") from error
    if not isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        raise InvalidJob(f"{file}: expected a job (a mapping of fields to values) or a list of jobs")
    _reject_duplicates(file, node)
    return node


def _without_tabs(text: str) -> str:
    """Replace the tabs of a JSON text by spaces: they are between its tokens, where YAML does not allow them."""
    if "\t" in text and text.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(text)
            return text.replace("\t", " ")
    return text


def _construct(file: Path, node: Any) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise _syntax_error(file, error) from error
    finally:
        loader.dispose()


def _syntax_error(file: Path, error: yaml.YAMLError) -> InvalidJob:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return InvalidJob(f"{file}{line}: not plain YAML or JSON: {problem}")


def _reject_duplicates(file: Path, node: Any) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[object] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidJob(f"{file}, line {key.start_mark.line + 1}: field names must be text")
            if key.value in seen:
                raise InvalidJob(f"{file}, line {key.start_mark.line + 1}: {key.value}: duplicate field")
            seen.add(key.value)
            _reject_duplicates(file, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _reject_duplicates(file, value)


def _ids_of_refs(file: Path, entries: Sequence[Any], nodes: Sequence[Any]) -> dict[str, str]:
    """Return the ids of the jobs that have a ``ref``, the label by which others of the file name them."""
    ids: dict[str, str] = {}
    for index, (entry, node) in enumerate(zip(entries, nodes, strict=True)):
        if not isinstance(entry, dict) or "ref" not in entry:
            continue
        ref = entry["ref"]
        where = f"{file}{_line(node, 'ref')}: jobs[{index}].ref: {ref!r} is not allowed"
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
        raise InvalidJob(f"{file}{_line(node, '')}: {prefix or 'job'}: expected a mapping of fields to values")
    try:
        refuse_credentials(entry)
        return Job.parse(_with_absolute_paths(entry, file.absolute().parent))
    except InvalidJob as error:
        head = f"{prefix}." if prefix else ""
        lines = [f"{file}{_line(node, line)}: {head}{line}" for line in error.message.split("\n")]
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


def _line(node: Any, complaint: str) -> str:
    """Return ``, line N`` for the field of a complaint: the line of its deepest part that is in the file."""
    field = complaint.split(": ", 1)[0]
    for part in filter(None, re.split(r"[.\[\]]+", field)):
        node, exists = _child(node, part)
        if not exists:
            break
    return f", line {node.start_mark.line + 1}"


def _child(node: Any, part: str) -> tuple[Any, bool]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                # report the line of the name, even if the value begins on the next line
                value.start_mark = key.start_mark
                return value, True
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        return node.value[int(part)], True
    return node, False
