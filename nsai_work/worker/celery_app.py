"""The Celery application for Celery's own command: ``celery -A nsai_work.worker.celery_app worker``, with any pool.

It is created on first access, not on import.
"""

import logging
from functools import lru_cache
from typing import Any

from celery.signals import setup_logging

from nsai_work.dispatch.app import WorkApp, make_app
from nsai_work.settings import Settings
from nsai_work.telemetry.logs import configure_logging, log_what_python_prints
from nsai_work.worker.runtime_thread import RuntimeThread
from nsai_work.worker.service import end_process, stop_consuming


@lru_cache(maxsize=1)
def _app() -> WorkApp:
    settings = Settings()
    if settings.log_format == "json":
        _log_json(settings)
    return make_app(settings, lambda: RuntimeThread(settings, on_end=stop_consuming, on_stalled=end_process))


def _log_json(settings: Settings) -> None:
    """Have Celery leave logging to us: its own is text. The level of its command line stays."""

    def set_up(loglevel: int | str | None = None, **others: Any) -> None:
        if loglevel:
            logging.getLogger().setLevel(loglevel)

    configure_logging(settings)
    log_what_python_prints()
    setup_logging.connect(set_up, weak=False)


def __getattr__(name: str) -> WorkApp:
    if name in ("app", "celery"):
        return _app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
