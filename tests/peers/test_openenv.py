"""Environments of OpenEnv, by our adapter: the kit of environments, on servers of the package."""

from pathlib import Path
from typing import Any

from kit_run import run_kit


def test_its_environments_keep_the_contract(provided: Any, tmp_path: Path) -> None:
    """With texts, JSON and tools as actions; a fault, and a server that goes away, cost their rollouts alone."""
    run_kit(provided("openenv"), "openenv_kit.py", ["openenv_server.py"], tmp_path)


def test_so_do_those_of_the_package_as_it_was_called_before(provided: Any, tmp_path: Path) -> None:
    """With the same adapter: the client's calls and the messages of the server are the same."""
    only = "TestGame or TestJson or TestTools or actions or tools or never or goes_away"
    run_kit(provided("openenv-core"), "openenv_kit.py", ["openenv_server.py"], tmp_path, only=only)
