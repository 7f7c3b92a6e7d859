"""Many inputs of each kind, made by a fast generator: ``NSAI_FUZZ=100000`` makes as many; by default there are few.

The other tests of this folder use hypothesis, which shrinks what it finds but is slow. A failure names the seed
of its input.
"""

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pydantic_core import from_json

from backends.openai.errors import error_in_answer
from backends.tinkex.client.connection import decode_record
from backends.tinkex.client.results import check_pass, pass_decoding, sample_decoding
from backends.tinkex.errors import ErrorResponse, Resource, error_from_response
from backends.tinkex.wire.pass_output_codec import read_pass_output
from backends.tinkex.wire.protobuf_reader import ProtobufError
from backends.tinkex.wire.sample_codec import read_sample_response
from crucible import CrucibleError
from tests.fuzz import test_openai_answers as openai_answers
from tests.fuzz import test_tinkex_answers as tinkex_answers
from tests.fuzz.fuzzing import bounded_memory

INPUTS = int(os.environ.get("NSAI_FUZZ", "300"))
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 429, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "429", "x", "\ud800", "\x1b[31m", "\u202e", "corrupted"),
    *("not found", "NaN", "stop", "text", "data:", "é" * 300, [], {}, [[]], {"": {}}),
)
STATUSES = (400, 401, 402, 404, 405, 408, 409, 410, 418, 422, 429, 500, 501, 503, 599)


def hostile(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON."""
    kind = rng.random()
    if depth > 3 or kind < 0.6:
        return rng.choice(SCALARS)
    items = [hostile(rng, depth + 1) for _ in range(rng.randrange(4))]
    return items if kind < 0.8 else {rng.choice(("a", "loc", "msg", "message", "code", "")): item for item in items}


def mutated(rng: random.Random, base: Any) -> Any:
    """A value with some of its parts replaced, renamed, removed or repeated."""
    if rng.random() < 0.06:
        return hostile(rng)
    if isinstance(base, dict):
        return {
            name if rng.random() > 0.03 else "x": mutated(rng, value)
            for name, value in base.items()
            if rng.random() > 0.04
        }
    if isinstance(base, list):
        return [mutated(rng, item) for item in base] * rng.choice((1,) * 12 + (0, 2, 3))
    return base


def damaged(rng: random.Random, base: bytes) -> bytes:
    """Bytes with some of them changed, cut, inserted or repeated."""
    data = bytearray(base)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] = rng.randrange(256)
            case 1:
                data[at : at + rng.randrange(20)] = b""
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(8))
            case 3:
                data[at:at] = data[at : at + rng.randrange(60)]
            case _ if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


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
    with suppress(ProtobufError):
        check_pass(read_pass_output(damaged(rng, tinkex_answers.OUTPUT)), "run", None)


def _sample(rng: random.Random) -> None:
    with suppress(ProtobufError):
        read_sample_response(damaged(rng, tinkex_answers.SAMPLE))


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
    for seed in range(INPUTS):
        try:
            TARGETS[target](random.Random(seed))
        except CrucibleError:
            continue
        except Exception as error:
            raise AssertionError(f"{target}, seed {seed}: {error!r}") from error
