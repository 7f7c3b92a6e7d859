"""The package costs little to import, and every public name is there."""

import subprocess
import sys

import backends.tinkex as tinkex
from backends.tinkex import types


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after ``code``."""
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing_heavy() -> None:
    """Not even pydantic."""
    heavy = {"numpy", "httpx", "pydantic", "pydantic_settings", "zstandard", "torch", "transformers"}

    assert not heavy & loaded_by("import backends.tinkex; import backends.tinkex.types")


def test_making_records_and_clients_loads_no_numpy() -> None:
    """Numbers in lists need no numpy; a client that has sent nothing needs no httpx."""
    code = (
        "from backends.tinkex import ServiceClient, types\n"
        "types.Datum(model_input=types.ModelInput.from_ints([1]), loss_fn_inputs={'weights': [1.0]})\n"
        "ServiceClient(base_url='http://127.0.0.1:1')"
    )

    assert not {"numpy", "httpx", "torch"} & loaded_by(code)


def test_every_public_name_is_there() -> None:
    """``__all__`` is sorted and true, for both packages."""
    for module in (tinkex, types):
        assert list(module.__all__) == sorted(module.__all__)
        assert dir(module) == module.__all__
        assert all(getattr(module, name).__name__ for name in module.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for any module."""
    assert not hasattr(tinkex, "nothing_of_the_kind")
    assert not hasattr(types, "nothing_of_the_kind")
