"""The Celery application for Celery's own command: ``celery -A nsai_work.worker.celery_app worker``, with any pool.

It is created on first access, not on import.
"""

from functools import lru_cache

from nsai_work.dispatch.app import WorkApp, make_app
from nsai_work.settings import Settings
from nsai_work.worker.runtime_thread import RuntimeThread
from nsai_work.worker.service import end_process, stop_consuming


@lru_cache(maxsize=1)
def _app() -> WorkApp:
    settings = Settings()
    return make_app(settings, lambda: RuntimeThread(settings, on_end=stop_consuming, on_stalled=end_process))


def __getattr__(name: str) -> WorkApp:
    if name in ("app", "celery"):
        return _app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
