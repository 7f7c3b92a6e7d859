"""The names of the official SDK's clients, of their ``_async`` twins and parameters, on the clients of the shim."""

import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from provision import HERE, SDK_VERSIONS

import backends.tinkex.compat as tinker
from backends.tinkex.client.rest import client as rest

CONSOLE = {"get_console_url"}
LACKS: dict[str, set[str]] = {
    "ServiceClient": {"holder", *CONSOLE},
    "TrainingClient": CONSOLE,
    "SamplingClient": {"create", "on_queue_state_change"},
    "RestClient": {
        *("assign_session_project", "assign_session_project_async", "export_session_trace"),
        *("export_session_trace_async", "get_audit_log", "get_audit_log_async", "search_sessions", "whoami"),
        *("get_current_checkpoint_storage_usage", "get_current_checkpoint_storage_usage_async"),
    },
    "APIFuture": set(),
}
"""What the shim has not: links to the service's console, its internals, and its accounts and projects."""
PAGE = HERE.parents[1] / "docs" / "howto" / "shim.md"


@pytest.fixture(scope="module")
def theirs(provided: Any) -> dict[str, dict[str, list[str]]]:
    """The public names of the newest SDK's clients, with their parameters."""
    python: Path = provided(f"sdk-{SDK_VERSIONS[-1]}")
    done = subprocess.run([python, HERE / "sdk_names.py"], capture_output=True, text=True, timeout=120, check=True)
    names: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return names


@pytest.mark.parametrize("client", LACKS)
def test_the_shim_has_every_name_but_those_on_its_page(
    client: str, theirs: dict[str, dict[str, list[str]]]
) -> None:
    """Twins too; the page says what is not there."""
    ours = dir(rest_client()) if client == "RestClient" else dir(getattr(tinker, client))

    assert set(theirs[client]) - {"__init__"} - set(ours) == LACKS[client]
    page = PAGE.read_text()
    assert {name for name in LACKS[client] if f"{name.removesuffix('_async')}`" not in page} == set()


@pytest.mark.parametrize("client", LACKS)
def test_the_shim_takes_every_parameter(client: str, theirs: dict[str, dict[str, list[str]]]) -> None:
    """Under the same name; one that it cannot send is refused with a reason, and not as unknown."""
    lacking = {
        f"{name}: {parameter}"
        for name, parameters in theirs[client].items()
        if name not in LACKS[client]
        for parameter in set(parameters) - accepted(client, name.removesuffix("_async"))
    }

    assert lacking == set()


def accepted(client: str, name: str) -> set[str]:
    """The parameters of a method, whose twin has the same."""
    if client == "RestClient" and name in vars(rest.RestClient) | vars(rest.ExportMethods):
        # its calls are those of our own client
        return {"access_scope", *inspect.signature(getattr(rest.RestClient, name)).parameters}
    member = inspect.getattr_static(getattr(tinker, client), name)
    return set() if isinstance(member, property) else set(inspect.signature(member).parameters)


def rest_client() -> tinker.RestClient:
    """A client of no server: it says which calls it has."""
    return tinker.RestClient(base_url="http://127.0.0.1:9", api_key="tml-none")
