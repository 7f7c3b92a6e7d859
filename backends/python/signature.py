"""Validation of a function's arguments by its signature."""

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, JsonValue, PydanticUserError, TypeAdapter, ValidationError

from crucible.errors import InvalidRequest, PluginError
from crucible.values.suggestions import known_names
from nsai_work.functions import Context

Bound = tuple[tuple[Any, ...], dict[str, Any]]


class Signature:
    """The parameters that a job sets: all but those annotated with ``Context``.

    Raises:
        PluginError: the function has ``*args``, or annotations that cannot be resolved or validated.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._name = name
        try:
            signature = inspect.signature(function)
            hints = typing.get_type_hints(_annotated(function), include_extras=True)
            self._context = tuple(key for key in signature.parameters if hints.get(key) is Context)
            parameters = [item for item in signature.parameters.values() if item.name not in self._context]
            self._names = tuple(item.name for item in parameters if item.kind is not inspect.Parameter.VAR_KEYWORD)
            _require_names(name, signature)
            self._adapter = _adapter(parameters, hints)
        except (NameError, TypeError, ValueError, PydanticUserError) as error:
            raise PluginError(f"the parameters of {name} cannot be validated: {error}", backend="python") from error

    def bind(self, arguments: Mapping[str, JsonValue], context: Context | None = None) -> Bound:
        """Validate arguments and return them as the function takes them. Types are those of JSON, not converted: a
        string is no number.

        Raises:
            InvalidRequest: an argument is unknown, missing or invalid; the error names all of them.
        """
        try:
            text = json.dumps(arguments, allow_nan=False)
            args, kwargs = self._adapter.validate_json(text)
        except ValidationError as error:
            raise self._refusal(error) from error
        except (ValueError, RecursionError) as error:
            raise InvalidRequest.of("arguments", "...", f"must be JSON: {error}", backend="python") from error
        return args, {**kwargs, **dict.fromkeys(self._context, context)}

    def _refusal(self, error: ValidationError) -> InvalidRequest:
        problems = [self._problem(item) for item in error.errors(include_url=False, include_input=False)]
        fields = [field for field, _ in problems]
        message = "; ".join(f"{field}: {text}" for field, text in problems)
        return InvalidRequest(
            f"{self._name}: {message}", backend="python", details={"field": fields[0], "fields": list(fields)}
        )

    def _problem(self, item: Any) -> tuple[str, str]:
        name = ".".join(str(step) for step in item["loc"])
        field = f"arguments.{name}" if name else "arguments"
        if item["type"] == "unexpected_keyword_argument":
            return field, f"unknown; {known_names(name, self._names)}"
        if item["type"].startswith("missing"):
            return field, "missing"
        return field, item["msg"].removeprefix("Value error, ")


def _annotated(function: Callable[..., Any]) -> Any:
    """The object that holds the annotations: a class or an instance is called through a method."""
    function = inspect.unwrap(function)
    if inspect.isroutine(function):
        return function
    return function.__init__ if inspect.isclass(function) else type(function).__call__


def _require_names(name: str, signature: inspect.Signature) -> None:
    for item in signature.parameters.values():
        if item.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise PluginError(
                f"{name} cannot be called with named arguments: its parameter {item.name!r} is positional",
                backend="python",
            )


def _adapter(parameters: list[inspect.Parameter], hints: dict[str, Any]) -> TypeAdapter[Bound]:
    """A validator of the arguments, which returns them instead of calling the function."""

    def collect(*args: Any, **kwargs: Any) -> Bound:
        return args, kwargs

    # by keyword: the order of the parameters does not matter once Context has been left out
    keyword = inspect.Parameter.KEYWORD_ONLY
    named = [item.replace(kind=keyword) if item.kind is not item.VAR_KEYWORD else item for item in parameters]
    collect.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    collect.__annotations__ = {item.name: hints[item.name] for item in parameters if item.name in hints}
    return TypeAdapter(collect, config=ConfigDict(strict=True, allow_inf_nan=False))  # type: ignore[arg-type]
