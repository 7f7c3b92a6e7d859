"""The public methods of the official SDK's clients, as JSON: ``{class: [name, ...]}``."""

import json

import tinker

CLIENTS = ("ServiceClient", "TrainingClient", "SamplingClient", "RestClient", "APIFuture")
found = {name: sorted(one for one in dir(getattr(tinker, name)) if not one.startswith("_")) for name in CLIENTS}
print(json.dumps(found))  # noqa: T201
