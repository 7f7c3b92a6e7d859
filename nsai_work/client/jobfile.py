"""Jobs from a file: YAML or JSON, one job or a list of them.

Only plain data is read: no tags that build objects, no aliases (a few lines of them can unfold into gigabytes).
Relative paths of data are taken from the file's own directory. Errors name the file, the line and the field.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from nsai_work.credentials import refuse_credentials
from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.user_paths import expanded

MAX_BYTES = 16 << 20
# where a payload holds a path
_PATHS = (("data", "path"), ("input", "path"), ("output",))


def load_jobs(path: str | Path) -> list[Job]:
    """All jobs of a file, in its order.

    Raises:
        InvalidJob: the file cannot be read, is no plain YAML or JSON, or a job in it is wrong.
    """
    file = Path(path)
    text = _read(file)
    node = _compose(file, text)
    data = _construct(file, node)
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise InvalidJob(f"{file}: holds no job")
    nodes = node.value if isinstance(data, list) else [node]
    return [
        _job(file, entry, entry_node, f"jobs[{index}]" if isinstance(data, list) else "")
        for index, (entry, entry_node) in enumerate(zip(entries, nodes, strict=True))
    ]


def load_job(path: str | Path) -> Job:
    """The one job of a file.

    Raises:
        InvalidJob: as ``load_jobs``, or the file holds several.
    """
    jobs = load_jobs(path)
    if len(jobs) != 1:
        raise InvalidJob(f"{path}: holds {len(jobs)} jobs; expected one")
    return jobs[0]


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InvalidJob(f"{file}: larger than {MAX_BYTES >> 20} MiB; keep data in its own file")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidJob(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidJob(f"{file}: is not UTF-8 text (byte {error.start})") from error


class _Loader(yaml.SafeLoader):
    """Plain data only."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(problem="aliases are not read here", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            problem = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]} that can be read"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from error


def _compose(file: Path, text: str) -> Any:
    try:
        # JSON is YAML, but for tabs between tokens, and a few escapes that nobody writes
        node = yaml.compose(_without_tabs(text), Loader=_Loader)
    except yaml.YAMLError as error:
        raise _unreadable(file, error) from error
    except RecursionError as error:
        raise InvalidJob(f"{file}: nested too deeply") from error
    if not isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        raise InvalidJob(f"{file}: expected a job (fields and values) or a list of jobs")
    _refuse_duplicates(file, node)
    return node


def _without_tabs(text: str) -> str:
    """The text; if it is JSON, its tabs as blanks: they stand only between tokens, where YAML takes none."""
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
        raise _unreadable(file, error) from error
    finally:
        loader.dispose()


def _unreadable(file: Path, error: yaml.YAMLError) -> InvalidJob:
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return InvalidJob(f"{file}{place}: not plain YAML or JSON: {problem}")


def _refuse_duplicates(file: Path, node: Any) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[object] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidJob(f"{file}, line {key.start_mark.line + 1}: a field's name must be text")
            if key.value in seen:
                raise InvalidJob(f"{file}, line {key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)
            _refuse_duplicates(file, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(file, value)


def _job(file: Path, entry: Any, node: Any, prefix: str) -> Job:
    if not isinstance(entry, dict):
        raise InvalidJob(f"{file}{_line(node, '')}: {prefix or 'job'}: expected fields and values")
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
    for place in _PATHS:
        payload = _resolved(payload, place, base)
    return {**entry, "payload": payload}


def _resolved(data: dict[str, Any], place: tuple[str, ...], base: Path) -> dict[str, Any]:
    head, *rest = place
    value = data.get(head)
    if rest and isinstance(value, dict):
        return {**data, head: _resolved(value, tuple(rest), base)}
    if not rest and isinstance(value, str) and value:
        return {**data, head: str(base / expanded(value))}
    return data


def _line(node: Any, complaint: str) -> str:
    """ ", line N" of the deepest part of the complaint's field that is in the file."""
    field = complaint.split(": ", 1)[0]
    for part in filter(None, re.split(r"[.\[\]]+", field)):
        node, found = _child(node, part)
        if not found:
            break
    return f", line {node.start_mark.line + 1}"


def _child(node: Any, part: str) -> tuple[Any, bool]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                # the line of the name, also when the value begins on the next one
                value.start_mark = key.start_mark
                return value, True
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        return node.value[int(part)], True
    return node, False
