"""Job ids: their submitter may choose any text, and saves are named by it."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.local.checkpoints import CheckpointPath
from backends.tinkex_dev.storage.checkpoints import valid_name
from crucible.training import IntentKind
from nsai_work.identifiers import new_job_id
from nsai_work.training.operations import checkpoint_name, run_name, save_id

IDS = st.text(min_size=1, max_size=64)


@given(job_id=IDS)
@example("sweep-of-rank-experiment1")
@example("run 7")
def test_a_run_of_any_id_is_saved(job_id: str) -> None:
    """Its saves have names that services and local backends accept, and the first one does not fail it."""
    name = checkpoint_name(run_name(job_id, 1), 100)

    assert valid_name(name)
    assert CheckpointPath.of_save("fake", "run", IntentKind.SAVE_STATE, name).name == name


@pytest.mark.parametrize("job_id", [new_job_id(datetime.now(UTC)), "nightly-7", "_x"], ids=["new", "word", "short"])
def test_saves_of_a_plain_id_have_its_end(job_id: str) -> None:
    """People find them by it."""
    assert save_id(job_id) == job_id[-12:].lstrip("_")
