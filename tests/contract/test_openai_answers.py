"""Every answer of the table, through the openai backend: whole and streamed, good and bad."""

import gzip
import json
import traceback
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import zstandard

pytest.importorskip("openai")

from backends.openai import OpenAIBackend
from crucible import CrucibleError, MalformedAnswer, collect
from crucible.testing.loop import run_opened
from tests.contract.answer_forms import Scenario
from tests.contract.answer_judge import PROMPT, judge
from tests.contract.answer_scenarios import SCENARIOS
from tests.contract.answer_server import Answer, AnswerServer


@pytest.fixture(scope="module")
def server() -> Iterator[AnswerServer]:
    """One server for all tests here."""
    with AnswerServer() as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_an_answer(server: AnswerServer, scenario: Scenario) -> None:
    """Complete and stream give the same, or the same error; it is in our family and of the right class."""
    backend = OpenAIBackend({"base_url": server.url, "api_key": "sk-0123456789", "max_retries": 0, "models": ["m"]})
    judge(backend, server, scenario)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_compressed_answer_is_read_and_a_bomb_is_malformed(server: AnswerServer, encoding: str) -> None:
    """Whole and streamed; no more than the limit is decompressed."""
    encode = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}[encoding]
    config = {"base_url": server.url, "api_key": "sk-0123456789", "max_retries": 0, "models": ["m"]}
    headers = {"Content-Encoding": encoding}
    good = next(scenario for scenario in SCENARIOS if scenario.name == "finish reason 'stop'")
    assert good.whole is not None
    assert good.streamed is not None
    whole = Answer((encode(b"".join(good.whole.pieces)),), headers=headers)
    streamed = Answer((encode(b"".join(good.streamed.pieces)),), "text/event-stream", headers=headers)
    judge(OpenAIBackend(config), server, replace(good, whole=whole, streamed=streamed))

    bomb = Answer((encode(bytes(64 << 20)),), headers=headers)
    bad = Scenario("a bomb", bomb, bomb, error=MalformedAnswer, says="larger than 1000000 bytes")
    tracemalloc.start()
    try:
        judge(OpenAIBackend({**config, "max_response_bytes": 1_000_000}), server, bad)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 422, 429, 500])
@pytest.mark.parametrize("place", ["message", "code", "type", "param", "detail"])
def test_an_echoed_key_shows_nowhere(server: AnswerServer, status: int, place: str) -> None:
    """In the error's text, its repr, its data, and its causes, which a traceback would show."""
    key = "sk-Zq81-0123456789-Wv"
    body = json.dumps(
        {"error": {"message": "no", place: f"your key {key} is wrong: Bearer {key[:14]}..."}}
    ).encode()
    answer = Answer((body,), status=status, headers={"x-request-id": key})
    server.whole = server.streamed = answer
    backend = OpenAIBackend({"base_url": server.url, "api_key": key, "max_retries": 0, "models": ["m"]})
    for run in (lambda opened: opened.complete(PROMPT), lambda opened: collect(opened.stream(PROMPT))):
        with pytest.raises(CrucibleError) as caught:
            run_opened(backend, run)
        error = caught.value
        shown = f"{error}{error!r}{error.failure()}" + "".join(traceback.format_exception(error))
        assert key[:10] not in shown


def test_the_table_is_large() -> None:
    """At least 40 scenarios."""
    assert len(SCENARIOS) >= 40
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
