# One import a name: read by type checkers and, at run time, by crucible.runtime.lazy_names.
from nsai_work.testing.assertions import assert_not_submitted as assert_not_submitted
from nsai_work.testing.assertions import assert_submitted as assert_submitted
from nsai_work.testing.clock import VirtualClock as VirtualClock
from nsai_work.testing.clock import virtual_clock as virtual_clock
from nsai_work.testing.store import IsolatedStore as IsolatedStore
from nsai_work.testing.store import isolated_store as isolated_store
from nsai_work.testing.worker import run_jobs as run_jobs

__all__: list[str]
