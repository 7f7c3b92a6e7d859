"""Packages whose names are imported on first access."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = sorted(
    ".".join(stub.parent.relative_to(ROOT).parts)
    for folder in ("backends", "crucible", "nsai_work")
    for stub in (ROOT / folder).rglob("__init__.pyi")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_the_stub_is_importable(package: str) -> None:
    """``__all__`` and ``dir()`` list the stub's names, sorted; each is there, and is looked up once."""
    module = importlib.import_module(package)

    assert len(module.__all__) > 1
    assert module.__all__ == dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is vars(module)[name]


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    """As for any other module."""
    module = importlib.import_module(package)

    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Nothing'"):
        _ = module.Nothing


def test_a_star_import_has_every_name() -> None:
    """Also when it is the first access to the package."""
    code = "from crucible import *; import crucible; assert set(crucible.__all__) <= set(globals())"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
