"""Environments whose packages are missing: a process without one leaves its jobs to others."""

import importlib.util

import pytest

from crucible.environments.cookbook import CookbookEnvironment
from crucible.environments.openenv import OpenEnvEnvironment
from crucible.errors import CommandMissing, InvalidRequest


@pytest.mark.parametrize(
    ("kind", "package", "settings", "extra"),
    [
        (CookbookEnvironment, "tinker_cookbook", {"builder": "a.b:C"}, "cookbook"),
        (OpenEnvEnvironment, "openenv", {"url": "http://127.0.0.1:1"}, "openenv"),
    ],
    ids=["cookbook", "openenv"],
)
def test_a_missing_package_is_named(kind: type, package: str, settings: dict[str, str], extra: str) -> None:
    """With the command that installs it; wrong settings are refused before."""
    if importlib.util.find_spec(package) is not None:
        pytest.skip("it is installed; make peers tests it")
    with pytest.raises(CommandMissing, match=rf"pip install 'nsai-work\[{extra}\]'"):
        kind(settings)
    with pytest.raises(InvalidRequest):
        kind({})
    with pytest.raises(InvalidRequest):
        kind({**settings, "split": "validation"})
