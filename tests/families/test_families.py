"""The recipes of tinker-cookbook as job files: each entry point is accepted, or what it lacks is named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import submit_many
from nsai_work.client.jobfile import load_jobs
from nsai_work.client.variants import VariedField
from nsai_work.testing import isolated_store
from tests.families.table import (
    COMPARED_ALONE,
    COMPARED_ROLLOUTS,
    COMPARED_TEXTS,
    ENTRY_POINTS,
    FOLDER,
    PAGE,
    EntryPoint,
    families,
    levels_of,
    page_lines,
    whole_job,
)

FAMILIES: Final = 18
WHOLE: Final = 17
"""The number of families all of whose entry points are accepted. It may only rise."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A running dev server."""
    with DevServer(tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.mark.parametrize("entry", [each for each in ENTRY_POINTS if each.jobs], ids=lambda each: each.name)
def test_the_jobs_of_an_entry_point_are_accepted(
    entry: EntryPoint, data: Path, packages: Path, service: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At submit, with all that is checked there: loss, data, environment, models, settings."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(packages))
    file = data / f"{entry.name}.yaml"
    file.write_text(yaml.safe_dump([whole_job(job) for job in entry.jobs]))
    with isolated_store(python_allow="environments"):
        monkeypatch.setenv("TINKER_BASE_URL", service.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        handles = submit_many(load_jobs(file, [VariedField.parse(each) for each in entry.set]))
        names = [event.name for handle in handles for event in handle.events()]
    assert len(handles) == (len(entry.jobs) if not entry.set else 12)
    assert "submit.unverified" not in names


def test_the_page_has_the_levels_that_tests_hold() -> None:
    """All eighteen families are in the table, and a row for each is on the page, with what it lacks."""
    page = PAGE.read_text().splitlines()
    whole = [name for name, entries in families().items() if all("S" in levels_of(entry) for entry in entries)]
    names = {entry.name for entry in ENTRY_POINTS}

    assert len(families()) == FAMILIES
    assert len(whole) >= WHOLE
    assert names >= {*COMPARED_ROLLOUTS, *COMPARED_TEXTS, *COMPARED_ALONE}
    assert [line for line in page_lines() if line not in page] == []
    assert len([line for line in page if line.startswith("| `")]) == FAMILIES
