"""Errors as data: what an error records is what is rebuilt from its record."""

import pickle
from collections.abc import Iterator

import pytest

from backends.tinkex import errors as tinkex_errors
from backends.tinkex_dev import errors as dev_server_errors
from crucible.errors import BackendError, CrucibleError, Failure, error_from
from crucible.rendering import template_examples
from nsai_work import errors as work_errors
from nsai_work.errors import WorkError

MODULES = (tinkex_errors, dev_server_errors, template_examples, work_errors)


def family(root: type[CrucibleError]) -> Iterator[type[CrucibleError]]:
    """The product's classes from a root on; tests have their own."""
    if root.__module__.partition(".")[0] in ("backends", "crucible", "nsai_work"):
        yield root
    for kind in root.__subclasses__():
        yield from family(kind)


FAMILY = sorted(family(CrucibleError), key=lambda kind: kind.__name__)


def make(kind: type[CrucibleError]) -> CrucibleError:
    """An error of a class with every field that all classes have."""
    error = kind.__new__(kind, "it failed")
    CrucibleError.__init__(
        error, "it failed", backend="tinkex", request_id="r-1", retry_after_ms=1500, details={"step": 3}
    )
    return error


def test_the_family_is_whole() -> None:
    """The parametrized test below sees the classes of all three packages."""
    assert {kind.__module__ for kind in FAMILY} == {"crucible.errors", *(module.__name__ for module in MODULES)}


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_a_failure_gives_the_whole_error_back(kind: type[CrucibleError]) -> None:
    """Message, backend, request, delay and details survive, in the class that declares the code."""
    error = make(kind)

    rebuilt = error_from(error.failure())

    declaring = next(base for base in kind.__mro__ if "code" in vars(base))
    assert type(rebuilt) is declaring
    assert vars(rebuilt) == vars(error)
    assert str(rebuilt) == str(error)
    if declaring is kind:
        assert rebuilt.failure() == error.failure()


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[CrucibleError]) -> None:
    """Between processes no field is lost."""
    error = make(kind)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert vars(copy) == vars(error)


def test_no_two_classes_declare_a_code() -> None:
    """A code names its class."""
    codes = [kind.code for kind in FAMILY if "code" in vars(kind)]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("default", [BackendError, WorkError])
def test_an_unknown_code_is_of_the_default_class(default: type[CrucibleError]) -> None:
    """For example that of a plug-in which is not imported here."""
    failure = Failure(category="backend", code="of_a_plugin", message="it failed", details={"backend": 7})

    error = error_from(failure, default=default)

    assert type(error) is default
    assert error.details == {"backend": 7}
    assert error.backend is None
