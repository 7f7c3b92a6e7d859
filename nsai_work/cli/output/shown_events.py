"""The log of a process that shows its jobs live: without the events that the view has a line for."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nsai_work.presentation.event_text import has_text
from nsai_work.telemetry.logs import FIELDS


@contextmanager
def log_without_shown_events() -> Iterator[None]:
    """Leave events of jobs that views show out of the log of this process, in the block."""
    handlers = [*logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(_is_news)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    fields = getattr(record, FIELDS, None)
    return not (isinstance(fields, Mapping) and "job_id" in fields and has_text(str(fields.get("event"))))
