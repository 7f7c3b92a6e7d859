"""Spans of HTTP requests to a service, inside of a recorded trace; the service receives the trace's context.

Names and attributes are those of OpenTelemetry's semantic conventions for HTTP clients. Query strings, which may
hold signatures, are in no attribute, and the caller's baggage is not sent to the service.
"""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACE: Final = TraceContextTextMapPropagator()
_PORTS: Final = {"http": 80, "https": 443}
_FIRST_ERROR: Final = 400


class RequestSpan:
    """The span of one request."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def end(self, status: int) -> None:
        """Record the status of the response."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= _FIRST_ERROR:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(trace.StatusCode.ERROR)


_NOT_RECORDED: Final = RequestSpan(trace.INVALID_SPAN)


@contextmanager
def request_span(
    method: str, url: str, headers: MutableMapping[str, str], *, resends: int = 0
) -> Iterator[RequestSpan]:
    """Open the span of a request, and add the trace context to its headers.

    Without a current trace nothing is opened or added. A trace that is sampled out goes along, without a span.
    ``resends`` counts the earlier attempts at the same request.
    """
    current = trace.get_current_span().get_span_context()
    if not current.trace_flags.sampled:
        if current.is_valid:
            _TRACE.inject(headers)
        yield _NOT_RECORDED
        return
    parts = urlsplit(url)
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "server.address": parts.hostname or "",
        "server.port": parts.port or _PORTS.get(parts.scheme, 0),
        "url.full": urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")),
    }
    if resends:
        attributes["http.request.resend_count"] = resends
    with trace.get_tracer("crucible").start_as_current_span(
        method,
        kind=trace.SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        _TRACE.inject(headers)
        try:
            yield RequestSpan(span)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(trace.StatusCode.ERROR)
            raise
