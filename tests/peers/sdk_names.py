"""The public methods of the official SDK's clients and their parameters, as JSON: ``{class: {name: [name]}}``.

The parameters of a class are those of its ``__init__``; what is no method has none.
"""

import inspect
import json
from typing import Any

import tinker

CLIENTS = ("ServiceClient", "TrainingClient", "SamplingClient", "RestClient", "APIFuture")


def parameters(owner: type, name: str) -> list[str]:
    """The names of the parameters that a caller gives."""
    member: Any = inspect.getattr_static(owner, name)
    if isinstance(member, property):
        return []
    found = inspect.signature(getattr(owner, name)).parameters.values()
    return [one.name for one in found if one.name != "self" and one.kind is not one.VAR_KEYWORD]


classes = {name: getattr(tinker, name) for name in CLIENTS}
print(  # noqa: T201
    json.dumps(
        {
            client: {
                name: parameters(owner, name)
                for name in sorted(dir(owner))
                if not name.startswith("_") or (name == "__init__" and client in ("ServiceClient", "APIFuture"))
            }
            for client, owner in classes.items()
        }
    )
)
