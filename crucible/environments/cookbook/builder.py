"""The builders that a job names: classes of the cookbook or of a user, and their arguments, checked before use."""

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ConfigDict, JsonValue, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from crucible.environments.registry import load_target
from crucible.errors import InvalidRequest
from crucible.values.suggestions import known_names

PACKAGE: Final = "tinker_cookbook"
_NESTED: Final = frozenset({"builder", "args"})
_ARBITRARY: Final = ConfigDict(arbitrary_types_allowed=True)
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Builder:
    """A class to call with ``arguments``; ``parameters`` are all that it has, by name."""

    name: str
    target: type
    parameters: Mapping[str, inspect.Parameter]
    arguments: Mapping[str, Any]

    def made(self, more: Mapping[str, Any]) -> Any:
        """Call the class, with more arguments than the job gives.

        Raises:
            InvalidRequest: it refuses them.
        """
        try:
            return self.target(**{**self.arguments, **more})
        except Exception as error:
            given = {**self.arguments, **more}
            raise InvalidRequest.of(
                "args.args", str(given)[:500], f"{self.name} refuses it: {error!r:.500}"
            ) from error


def find_builder(
    field: str,
    name: str,
    args: Mapping[str, JsonValue],
    allow: Sequence[str],
    filled: Mapping[str, str] | None = None,
) -> Builder:
    """Import a class, of the cookbook or of a module that ``allow`` lists, and check its arguments. The run sets
    those of ``filled``, which names what sets each.

    Raises:
        InvalidRequest: it is no class, or an argument is unknown, missing, of the wrong type, or set by the run.
        CommandMissing: this process may not import the module, or lacks it.
    """
    target = load_target(f"{field}builder", name, allow=[*allow, PACKAGE])
    if not isinstance(target, type):
        raise InvalidRequest.of(f"{field}builder", name, "it must name a class")
    parameters = {key: each for key, each in inspect.signature(target).parameters.items() if each.kind in _NAMED}
    hints = _hints(target)
    own = filled or {}
    given: dict[str, Any] = {}
    for key, value in args.items():
        where = f"{field}args.{key}"
        if key not in parameters:
            raise InvalidRequest.of(where, value, known_names(key, sorted(set(parameters) - set(own))))
        if key in own:
            raise InvalidRequest.of(where, value, f"{own[key]} sets it; leave it out")
        if isinstance(value, dict) and "builder" in value and set(value) <= _NESTED:
            given[key] = _nested(where, value, allow)
        else:
            given[key] = _checked(where, value, hints.get(key, Any))
    required = [key for key, each in parameters.items() if each.default is inspect.Parameter.empty]
    if missing := [key for key in required if key not in given and key not in own]:
        raise InvalidRequest(
            f"{field}args: {', '.join(missing)} is missing; {name} needs it", details={"field": f"{field}args"}
        )
    return Builder(name, target, parameters, given)


def _nested(where: str, value: Mapping[str, Any], allow: Sequence[str]) -> Any:
    name, args = value["builder"], value.get("args", {})
    if not isinstance(name, str) or not isinstance(args, dict):
        raise InvalidRequest.of(where, value, "an object of builder, package.module:Name, and args, its settings")
    return find_builder(f"{where}.", name, args, allow).made({})


def _hints(target: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except Exception:
        # names that only a type checker sees
        return {}


def _checked(where: str, value: JsonValue, hint: Any) -> Any:
    try:
        adapter = TypeAdapter(hint, config=_ARBITRARY)
    except PydanticUserError:
        # a kind with a configuration of its own
        try:
            adapter = TypeAdapter(hint)
        except (PydanticUserError, SchemaError):
            return value
    except SchemaError:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise InvalidRequest.of(where, value, problem) from None
