"""Many answers of services, made by the fast generator: JSON, streams and protobuf."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from pydantic_core import from_json

from backends.openai.errors import error_in_answer
from backends.tinkex.client.requests.connection import decode_record
from backends.tinkex.client.requests.results import check_pass, pass_decoding, sample_decoding
from backends.tinkex.errors import ErrorResponse, Resource, error_from_response
from backends.tinkex.wire.protobuf.field_reader import ProtobufError
from backends.tinkex.wire.protobuf.pass_output_codec import read_pass_output
from backends.tinkex.wire.protobuf.sample_codec import read_sample_response
from crucible import CrucibleError
from tests.fuzz import test_openai_answers as openai_answers
from tests.fuzz import test_tinkex_answers as tinkex_answers
from tests.fuzz.generator import SCALARS, damaged, hostile, mutated, random_message, run_target
from tests.fuzz.mutations import bounded_memory

STATUSES = (400, 401, 402, 404, 405, 408, 409, 410, 418, 422, 429, 500, 501, 503, 599)


def _whole(rng: random.Random) -> None:
    openai_answers.completed(mutated(rng, rng.choice(openai_answers.WHOLE)))


def _stream(rng: random.Random) -> None:
    chunks = mutated(rng, rng.choice(openai_answers.STREAMS))
    openai_answers.streamed(chunks if isinstance(chunks, list) else [chunks], rng.random() < 0.5)


def _body(rng: random.Random) -> None:
    body = damaged(rng, rng.choice(openai_answers.BODIES))
    asyncio.run(openai_answers.read_body(body, rng.randrange(1, 200)))


def _error(rng: random.Random) -> None:
    names = openai_answers.FIELDS
    data = {rng.choice(names): hostile(rng) for _ in range(3)} if rng.random() < 0.7 else hostile(rng)
    error_in_answer(data, "m").failure().model_dump_json()


def _record(rng: random.Random) -> None:
    value = mutated(rng, rng.choice(tinkex_answers.ANSWERS))
    for decode in (
        lambda: decode_record(value, rng.choice(tinkex_answers.KINDS), "x"),
        lambda: sample_decoding().from_json(value),
        lambda: check_pass(pass_decoding("x").from_json(value), "run", None),
    ):
        with suppress(CrucibleError):
            decode()


def _error_response(rng: random.Random) -> None:
    body = json.dumps(mutated(rng, rng.choice(tinkex_answers.ERRORS))).encode()
    if rng.random() < 0.4:
        body = damaged(rng, body)
    headers = {"retry-after": str(rng.choice(SCALARS)), "date": str(rng.choice(SCALARS))}
    response = ErrorResponse(rng.choice(STATUSES), "x", body, rng.choice(list(Resource)), headers)
    error_from_response(response).failure().model_dump_json()


def _json_bytes(rng: random.Random) -> None:
    with suppress(ValueError):
        value = from_json(damaged(rng, json.dumps(rng.choice(tinkex_answers.ANSWERS)).encode()))
        check_pass(pass_decoding("x").from_json(value), "run", None)


def _pass(rng: random.Random) -> None:
    body = damaged(rng, tinkex_answers.OUTPUT) if rng.random() < 0.6 else random_message(rng)
    with suppress(ProtobufError):
        check_pass(read_pass_output(body), "run", None)


def _sample(rng: random.Random) -> None:
    body = damaged(rng, tinkex_answers.SAMPLE) if rng.random() < 0.6 else random_message(rng)
    with suppress(ProtobufError):
        read_sample_response(body)


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "openai: whole answer": _whole,
    "openai: stream": _stream,
    "openai: body": _body,
    "openai: error": _error,
    "tinkex: record": _record,
    "tinkex: error response": _error_response,
    "tinkex: damaged JSON": _json_bytes,
    "tinkex: pass in protobuf": _pass,
    "tinkex: sample in protobuf": _sample,
}


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """Of all tests here."""
    with bounded_memory():
        yield


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", TARGETS)
def test_only_errors_of_the_family_are_raised(target: str) -> None:
    """Whatever the input."""
    run_target(target, TARGETS[target])
