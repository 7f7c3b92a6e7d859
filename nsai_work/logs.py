"""Structured logging on top of the standard library's logging, so that an embedding application controls the
output.

Without configuration nothing below WARNING is logged. Tracebacks never show values of variables, which may be
prompts or credentials. Credentials that a service echoed are hidden; whatever could act on a terminal is escaped.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

from crucible.plain_text import plain_line, plain_text
from crucible.redaction import redacted, redacted_json
from nsai_work.settings import Settings

Render = Callable[[Mapping[str, Any]], str]


def _as_text(event: Mapping[str, Any]) -> str:
    head = plain_line(str(event.get("event", "")))
    rest = " ".join(f"{key}={_shown(value)}" for key, value in event.items() if key != "event")
    return f"{head} {rest}".rstrip()


def _shown(value: object) -> str:
    text = str(value)
    quoted = not text or bool(set(text) & set(' "=')) or plain_line(text) != text
    return json.dumps(text) if quoted else text


def _as_json(event: Mapping[str, Any]) -> str:
    return json.dumps(event, default=str)


_render: Render = _as_text


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger for structured events: ``log.info("job.claimed", job_id=...)``."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, _to_logging],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    return logger


def _to_logging(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    exc_info = event.pop("exc_info", None)
    shown = {key: redacted_json(value if _is_json(value) else str(value)) for key, value in event.items()}
    return (_render(shown),), {"exc_info": exc_info}


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | dict)


class _PlainFormatter(logging.Formatter):
    """Formats records of all loggers, with their tracebacks, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_text(redacted(super().format(record)))


def configure_logging(settings: Settings) -> None:
    """Configure logging for an nsai-work process: an event per line on stderr. Not for use by an embedding
    application."""
    global _render
    as_json = settings.log_format == "json"
    _render = _as_json if as_json else _as_text
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    line = "%(message)s" if as_json else "%(asctime)s %(levelname)s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])
    for noisy in ("celery", "kombu", "amqp", "httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
