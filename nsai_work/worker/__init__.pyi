# One import a name: read by type checkers and, at run time, by crucible.runtime.lazy_names.
from nsai_work.worker.inline import run_inline as run_inline
from nsai_work.worker.service import run_worker as run_worker

__all__: list[str]
