"""Structured logging on top of the standard library's logging, so that an embedding application controls the
output.

Without configuration nothing below WARNING is logged. Tracebacks never show values of variables, which may be
prompts or credentials. Credentials that a service echoed are hidden; whatever could act on a terminal is escaped.

As JSON, each record is one object on one line, of whatever logger and with its traceback: ``time`` (UTC, RFC 3339),
``level``, ``logger``, ``event``, the fields of the event, and ``job_id`` and ``trace_id`` inside of a job.
"""

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO

import structlog
from pydantic_core import to_json

from crucible.http.redaction import has_secrets, redacted, redacted_json
from crucible.rendering.plain_text import plain_line, plain_text
from nsai_work.settings import Settings

FIELDS: Final = "nsai_work_fields"
"""The attribute of a log record that has the fields of our own events."""


def _as_text(event: Mapping[str, Any]) -> str:
    head = plain_line(str(event.get("event", "")))
    rest = " ".join(f"{key}={_shown(value)}" for key, value in event.items() if key != "event")
    return f"{head} {rest}".rstrip()


def _shown(value: object) -> str:
    text = str(value)
    quoted = not text or bool(set(text) & set(' "=')) or plain_line(text) != text
    return json.dumps(text) if quoted else text


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


def bind_job(**fields: str | None) -> None:
    """Add these fields, as far as they have values, to each record that this task logs from now on."""
    structlog.contextvars.bind_contextvars(**{name: value for name, value in fields.items() if value is not None})


def log_event(logger: logging.Logger, level: int, event: str, fields: Mapping[str, Any]) -> None:
    """Log an event as ``get_logger`` does, at a fraction of its cost: for the events of every job.

    Where nothing but the JSON lines of this process would see the record, none is made.
    """
    shown = _shown_fields({**structlog.contextvars.get_contextvars(), **fields, "event": event})
    handler = _only_json_lines(logger)
    if handler is not None:
        handler.write_event(logger.name, level, shown)
        return
    extra = {FIELDS: shown}
    logger.handle(logger.makeRecord(logger.name, level, __file__, 0, _EventText(shown), (), None, extra=extra))


class _EventText:
    """The text of an event, which is made when it is shown: JSON lines need none."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        return _as_text(self._fields)


def _to_logging(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[_EventText], dict[str, Any]]:
    exc_info = event.pop("exc_info", None)
    shown = _shown_fields(dict(event))
    return (_EventText(shown),), {"exc_info": exc_info, "extra": {FIELDS: shown}}


def _shown_fields(event: dict[str, Any]) -> dict[str, Any]:
    if not has_secrets() and _JSON_TYPES.issuperset(map(type, event.values())):
        return event
    return {key: redacted_json(value if _is_json(value) else str(value)) for key, value in event.items()}


_JSON_TYPES: Final = frozenset({type(None), bool, int, float, str, list, dict})


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | dict)


class _PlainFormatter(logging.Formatter):
    """Formats records of all loggers, with their tracebacks, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_text(redacted(super().format(record)))


class _JsonFormatter(logging.Formatter):
    """Formats records of all loggers, with their tracebacks, as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line = _json_line(record.created, record.levelno, record.name, _fields(record))
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redacted(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = redacted(record.stack_info)
        return _dumped(line)


class _JsonLines(logging.StreamHandler[TextIO]):
    """A handler that writes a record as a line of JSON, and an event also without a record."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_JsonFormatter())

    def write_event(self, logger: str, level: int, fields: Mapping[str, Any]) -> None:
        """Write the line of an event. An error of the stream is reported as that of a record would be."""
        try:
            text = _dumped(_json_line(time.time(), level, logger, fields))
            with self.lock or contextlib.nullcontext():
                self.stream.write(text + self.terminator)
                self.flush()
        except Exception:
            self.handleError(logging.makeLogRecord({"name": logger, "levelno": level, "msg": _EventText(fields)}))


def _only_json_lines(logger: logging.Logger) -> _JsonLines | None:
    """The handler of this process's JSON lines, if it is all that would see a record of this logger."""
    at: logging.Logger | None = logger
    if logger.filters:
        return None
    while at is not None and at.parent is not None:
        if at.handlers or not at.propagate:
            return None
        at = at.parent
    handlers = logging.root.handlers
    handler = handlers[0] if len(handlers) == 1 else None
    plain = isinstance(handler, _JsonLines) and handler.level == logging.NOTSET and not handler.filters
    return handler if isinstance(handler, _JsonLines) and plain else None


def _json_line(created: float, level: int, logger: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    second = int(created)
    line: dict[str, Any] = {
        "time": f"{_second_text(second)}.{int((created - second) * 1000):03d}Z",
        "level": _level_text(level),
        "logger": logger,
    }
    if line.keys().isdisjoint(fields):
        line.update(fields)
        return line
    # a field of an event that has the name of one of these gets an underscore
    return line | {f"{name}_" if name in line else name: value for name, value in fields.items()}


@lru_cache(maxsize=16)
def _level_text(level: int) -> str:
    return logging.getLevelName(level).lower()


@lru_cache(maxsize=4)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    own: Mapping[str, Any] | None = getattr(record, FIELDS, None)
    if own is not None:
        return own
    try:
        message = record.getMessage()
    except Exception:
        # arguments that do not fit the message: the standard library would print a traceback instead of the record
        message = f"{record.msg} {record.args!r}"
    return {"event": redacted(message), **structlog.contextvars.get_contextvars()}


_ENCODER: Final = json.JSONEncoder(default=str, allow_nan=False)
"""It writes ASCII: whatever could act on a terminal is escaped. Where all is ASCII anyway, pydantic's is faster."""


def _dumped(line: Mapping[str, Any]) -> str:
    with contextlib.suppress(ValueError):
        text = to_json(line, fallback=str, inf_nan_mode="strings").decode()
        if text.isascii():
            return text
    try:
        return _ENCODER.encode(line)
    except (TypeError, ValueError, RecursionError):
        return _ENCODER.encode(
            {name: value if isinstance(value, str) else str(value) for name, value in line.items()}
        )


def configure_logging(settings: Settings) -> None:
    """Configure logging for an nsai-work process: an event per line on stderr. Not for use by an embedding
    application."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler: logging.Handler
    if settings.log_format == "json":
        handler = _JsonLines(sys.stderr)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for noisy in ("celery", "kombu", "amqp", "httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


def writes_json() -> bool:
    """Return whether this process logs JSON."""
    return any(isinstance(handler, _JsonLines) for handler in logging.getLogger().handlers)


def log_what_python_prints() -> None:
    """Log what Python would print to stderr as text: warnings, and errors that nothing caught."""
    logging.captureWarnings(True)
    log = logging.getLogger("python")

    def in_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "(ended)"
        if args.exc_value is not None:
            log.critical("an error ended the thread %s", name, exc_info=args.exc_value)

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        log.error("%s: %r", args.err_msg or "an error was ignored in", args.object, exc_info=args.exc_value)

    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
