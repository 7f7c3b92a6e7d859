"""Answers that are errors, and broken ones: each as a whole and as a stream, with the error that comes of it."""

import json
from collections.abc import Iterator
from typing import Any

from crucible import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    OutOfCredit,
    RequestTimeout,
)
from tests.contract.answer_forms import HEAD, USAGE_CHUNK, Scenario, body, chunk, said, stream, text, whole
from tests.contract.answer_server import Answer


def _errors() -> Iterator[Scenario]:
    found: list[tuple[str, Any, type[CrucibleError], str]] = [
        ("code 429", {"error": {"code": 429, "message": "slow down"}}, CapacityError, "slow down"),
        ("code '429'", {"error": {"code": "429", "message": "slow down"}}, CapacityError, "slow down"),
        ("code 503", {"error": {"code": 503, "message": "busy"}}, BackendUnavailable, "busy"),
        ("code 400", {"error": {"code": 400, "message": "bad"}}, InvalidRequest, "bad"),
        ("code 401", {"error": {"code": 401, "message": "no"}}, AuthenticationFailed, "credential"),
        ("code 402", {"error": {"code": 402, "message": "pay"}}, OutOfCredit, "pay"),
        ("code 408", {"error": {"code": 408, "message": "late"}}, RequestTimeout, "late"),
        (
            "rate_limit_exceeded",
            {"error": {"code": "rate_limit_exceeded", "message": "slow"}},
            CapacityError,
            "slow",
        ),
        ("insufficient_quota", {"error": {"code": "insufficient_quota", "message": "pay"}}, OutOfCredit, "pay"),
        (
            "context_length_exceeded",
            {"error": {"code": "context_length_exceeded", "message": "too long", "type": "invalid_request_error"}},
            InvalidRequest,
            "too long",
        ),
        ("type server_error", {"error": {"type": "server_error", "message": "oops"}}, BackendUnavailable, "oops"),
        ("text", {"error": "the model crashed"}, BackendError, "the model crashed"),
        ("object error", {"object": "error", "message": "too long", "code": 400}, InvalidRequest, "too long"),
        (
            "nulls beside it",
            {**HEAD, "choices": None, "error": {"code": 429, "message": "slow"}},
            CapacityError,
            "slow",
        ),
    ]
    for name, value, kind, says in found:
        yield Scenario(
            f"an error with status 200: {name}",
            body(value),
            stream(chunk({"content": "Hel"}), value, done=False),
            error=kind,
            says=says,
            received="Hel",
        )
    yield Scenario(
        "an error in a choice",
        whole({"content": "Hel"}, finish_reason="error", error={"code": 502, "message": "upstream died"}),
        stream(
            chunk({"content": "Hel"}), chunk(finish_reason="error", error={"code": 502, "message": "upstream died"})
        ),
        error=BackendUnavailable,
        says="upstream died",
        received="Hel",
    )


def _broken() -> Iterator[Scenario]:
    hel = chunk({"content": "Hel"})
    yield Scenario(
        "a stream cut inside its body",
        None,
        stream(hel, done=False, cut=True),
        error=BackendUnavailable,
        received="Hel",
    )
    yield Scenario(
        "a stream cut cleanly",
        None,
        stream(hel, done=False),
        error=BackendUnavailable,
        says="broke off",
        received="Hel",
    )
    yield Scenario(
        "a stream cut inside an event",
        None,
        Answer((*stream(hel, done=False).pieces, b'data: {"id": "chat'), content_type="text/event-stream"),
        error=MalformedAnswer,
        received="Hel",
    )
    yield Scenario(
        "a stream cut after its end",
        None,
        stream(hel, chunk({"content": "lo"}), chunk(finish_reason="stop"), done=False),
        [text("Hello", finish_reason="stop")],
    )
    yield Scenario(
        "a stream cut before it begins",
        None,
        Answer((b"",), content_type="text/event-stream"),
        error=BackendUnavailable,
    )
    yield Scenario(
        "a stream without an answer", None, stream(USAGE_CHUNK), error=MalformedAnswer, says="no choices"
    )
    yield Scenario(
        "a stream with comments, retry fields and CRLF",
        None,
        Answer(
            (
                b": keep-alive\r\n\r\nretry: 3\r\n",
                *(p.replace(b"\n", b"\r\n") for p in said({"content": "Hi"}).pieces),
            ),
            content_type="text/event-stream",
        ),
        [text("Hi")],
    )
    yield Scenario(
        "a stream with another content type", None, said({"content": "Hi"}, content_type="text/plain"), [text("Hi")]
    )
    yield Scenario(
        "a whole answer instead of a stream", None, whole({"content": "Hi"}), [text("Hi", finish_reason="stop")]
    )
    yield Scenario(
        "an answer with another content type",
        Answer(whole({"content": "Hi"}).pieces, content_type="text/plain"),
        None,
        [text("Hi")],
    )
    yield Scenario(
        "an answer without a content type",
        Answer(whole({"content": "Hi"}).pieces, content_type=""),
        None,
        [text("Hi")],
    )
    html = b"<!DOCTYPE html><html><body>Sign in to this network</body></html>"
    for media_type in ("text/html", "application/json", "text/event-stream"):
        page = Answer((html,), content_type=media_type)
        yield Scenario(f"HTML as {media_type}", page, page, error=MalformedAnswer)
    for name, value in {
        "empty": b"",
        "null": b"null",
        "a list": b"[]",
        "a number": b"5",
        "an empty object": b"{}",
        "no choices": json.dumps({**HEAD, "choices": []}).encode(),
        "choices null": json.dumps({**HEAD, "choices": None}).encode(),
        "choices of wrong type": json.dumps({**HEAD, "choices": 5}).encode(),
        "a choice of wrong type": json.dumps({**HEAD, "choices": [5]}).encode(),
        "no message": json.dumps({**HEAD, "choices": [{"index": 0}]}).encode(),
        "content of wrong type": json.dumps({**HEAD, "choices": [{"message": {"content": 5}}]}).encode(),
        "not UTF-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
        "cut JSON": whole({"content": "Hi"}).pieces[0][:-20],
        "deep JSON": b"[" * 100_000,
    }.items():
        yield Scenario(f"a body that is no answer: {name}", Answer((value,)), None, error=MalformedAnswer)
    chunks = {
        "choices of wrong type": {**HEAD, "choices": 5},
        "delta of wrong type": chunk(5),
        "content of wrong type": chunk({"content": 5}),
        "a list": [],
        "index of wrong type": chunk({"content": "Hi"}, index="first"),
    }
    for name, item in chunks.items():
        yield Scenario(
            f"a chunk that is none: {name}", None, stream(hel, item), error=MalformedAnswer, received="Hel"
        )


BROKEN = [*_errors(), *_broken()]
