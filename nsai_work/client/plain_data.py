"""Plain data of a file, in YAML or JSON: its values, and the lines on which they are.

JSON is read as JSON: YAML, which takes most of it, drops spaces around the line separators of Unicode, and knows no
pairs of surrogates.
"""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from nsai_work.errors import InvalidJob
from nsai_work.files.json_text import RepeatedField, decode_json

_TEXT_TAGS: Final = (None, "!", "tag:yaml.org,2002:str")
_NUMBER_TAGS: Final = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float"))
# << merges mappings, some of whose fields are then dropped; = stands for a default, of which there is none
_OTHER_TAGS: Final = tuple(f"tag:yaml.org,2002:{name}" for name in ("merge", "value"))


def read_plain_data(file: Path, text: str) -> tuple[dict[Any, Any] | list[Any], Any]:
    """Return the values of a file, and the node of YAML by which ``line_of`` finds their lines; None if there is
    none.

    Raises:
        InvalidJob: it is not plain YAML or JSON, or no mapping or list.
    """
    try:
        data = decode_json(text.removeprefix("\ufeff"))
    except RepeatedField as error:
        _compose(file, text)  # finds the line
        raise InvalidJob(f"{file}: {error}") from None
    except (ValueError, RecursionError):
        node = _compose(file, text)
        return _construct(file, node), node
    if not isinstance(data, dict | list):
        raise _not_a_job(file)
    try:
        # tabs are between tokens, where YAML does not allow them
        return data, _compose(file, text.removeprefix("\ufeff").replace("\t", " "))
    except InvalidJob:
        return data, None


class _Loader(yaml.SafeLoader):
    """Loads plain data only. Rejects aliases, and reports values that cannot be converted with their line."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        problem = None if tag in _TEXT_TAGS else f"the tag {ascii(tag)[:60]} is not supported; only !!str is"
        if self.check_event(yaml.AliasEvent):
            problem = "aliases are not supported"
        if problem is not None:
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=event.start_mark)
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
    integer, real = _NUMBER_TAGS
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (*_NUMBER_TAGS, *_OTHER_TAGS)]
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
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _syntax_error(file, error) from error
    except RecursionError as error:
        raise InvalidJob(f"{file}: nested too deeply") from error
    if not isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        raise _not_a_job(file)
    _reject_duplicates(file, node)
    return node


def _not_a_job(file: Path) -> InvalidJob:
    return InvalidJob(f"{file}: expected a job (a mapping of fields to values) or a list of jobs")


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


def line_of(node: Any, complaint: str) -> str:
    """Return ``, line N`` for the field of a complaint: the line of its deepest part that is in the file."""
    if node is None:
        return ""
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
