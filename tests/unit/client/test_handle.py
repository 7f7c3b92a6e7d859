"""The handle of a job: what blocks and what is awaited are the same."""

import inspect

import pytest

from nsai_work import JobHandle

ASYNC = [name for name in vars(JobHandle) if inspect.isfunction(getattr(JobHandle, f"a{name}", None))]


@pytest.mark.parametrize("name", ASYNC)
def test_an_async_variant_takes_what_its_twin_takes(name: str) -> None:
    """By name, and with the same defaults."""
    assert len(ASYNC) > 10
    blocking, awaited = (inspect.signature(getattr(JobHandle, each)) for each in (name, f"a{name}"))
    assert [*blocking.parameters.values()] == [*awaited.parameters.values()]
