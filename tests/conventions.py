"""The judge of the names in spans: those of OpenTelemetry's semantic conventions, as pinned, and our own."""

import ast
import pkgutil
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.semconv._incubating import attributes

OURS = "nsai_work."
MOVED = "Deprecated: Moved to the [OpenTelemetry GenAI semantic conventions repository]"
"""Names that another repository defines from now on are not deprecated ones: they are as they were."""
ENUMERATED = {
    "messaging.operation.type": "MessagingOperationTypeValues",
    "gen_ai.operation.name": "GenAiOperationNameValues",
    "http.request.method": "HttpRequestMethodValues",
}
"""Attributes whose values the conventions enumerate, and that we have no values of our own for."""


def odd_names(spans: Iterable[ReadableSpan]) -> set[str]:
    """The names of attributes, and of enumerated values, that the conventions do not have or deprecate."""
    odd = set()
    for span in spans:
        # the events of exceptions are made, and named, by the SDK
        events = [event for event in span.events if event.name != "exception"]
        for holder in (span, *events, *span.links):
            for name, value in (holder.attributes or {}).items():
                if not name.startswith(OURS) and name not in _attributes():
                    odd.add(name)
                if name in ENUMERATED and value not in _values(ENUMERATED[name]):
                    odd.add(f"{name}={value}")
    return odd


@cache
def _attributes() -> frozenset[str]:
    """The names of attributes that are not deprecated."""
    return frozenset(name for module in _modules() for _, name in _constants(module))


@cache
def _values(enumeration: str) -> frozenset[str]:
    """The values of an enumeration that are not deprecated."""
    classes = [
        node
        for module in _modules()
        for node in module.body
        if isinstance(node, ast.ClassDef) and node.name == enumeration
    ]
    return frozenset(value for node in classes for _, value in _constants(node))


@cache
def _modules() -> list[ast.Module]:
    # the deprecation of a name is in the text below it only
    found = [find_spec(info.name) for info in pkgutil.iter_modules(attributes.__path__, f"{attributes.__name__}.")]
    return [ast.parse(Path(spec.origin).read_text()) for spec in found if spec is not None and spec.origin]


def _constants(holder: ast.Module | ast.ClassDef) -> Iterator[tuple[str, str]]:
    body = [*holder.body, None]
    for node, below in pairwise(body):
        match node:
            case ast.AnnAssign(target=ast.Name(name), value=ast.Constant(str(value))):
                pass
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(str(value))):
                pass
            case _:
                continue
        match below:
            case ast.Expr(ast.Constant(str(text))) if text.strip().startswith("Deprecated:"):
                if not text.strip().startswith(MOVED):
                    continue
        yield name, value
