"""The ends of samples, learnt by one long poll of the sampling session where the server has it."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from scripted_server import Received, Response, ScriptedServer, json_response

from backends.tinkex import ServiceClient
from backends.tinkex.client.sampling import session_poll
from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.types import ModelInput, SamplingParams
from backends.tinkex_dev.server import DevServer

MakeService = Callable[..., ServiceClient]
PROMPT = ModelInput.from_ints([1, 2, 3])
THREE = SamplingParams(max_tokens=3)
POLLS = ("asample", "retrieve_futures", "retrieve_future")


@pytest.fixture
def sampler(scripted: ScriptedServer, make_service: MakeService) -> SamplingClient:
    """A sampler on a server that names the ends of requests."""
    scripted.script("client/config", json_response({"sample_use_retrieve_futures": True}))
    scripted.script("asample", *(json_response({"request_id": f"r{number}"}) for number in range(3)))
    result = json_response({"sequences": [{"tokens": [7], "stop_reason": "length"}]})
    scripted.futures |= {f"r{number}": [result] for number in range(3)}
    return make_service(scripted.url).attach_sampling_client("sampling")


def ended(*request_ids: str, cursor: int = 1) -> Response:
    """An answer that names ended requests."""
    completions = [{"state": "finished", "request_id": request_id} for request_id in request_ids]
    return json_response({"completions": completions, "cursor": cursor})


def routes(scripted: ScriptedServer) -> list[str]:
    """The requests for samples and their results, in order."""
    return [received.route for received in scripted.received if received.route in POLLS]


def test_a_result_is_fetched_once_its_end_was_named(scripted: ScriptedServer, sampler: SamplingClient) -> None:
    """One poll for the two samples, and one request for each result after it."""
    both_sent = threading.Event()

    def second(_: Received) -> Response:
        both_sent.set()
        return json_response({"request_id": "r1"})

    def when_both_are_sent(_: Received) -> Response:
        assert both_sent.wait(10)
        return ended("r0", "r1", cursor=2)

    scripted.script("asample", *(json_response({"request_id": "r0"}), second, json_response({"request_id": "r2"})))
    scripted.script("retrieve_futures", when_both_are_sent, ended("r2", cursor=3))
    pending = [sampler.sample(PROMPT, 1, THREE) for _ in range(2)]
    for future in pending:
        future.result(10)
    sampler.sample(PROMPT, 1, THREE).result(10)

    made = routes(scripted)
    assert made.count("retrieve_futures") == 2
    assert made.count("retrieve_future") == 3
    assert made.index("retrieve_future") > made.index("retrieve_futures")
    first, second = scripted.bodies("retrieve_futures")
    assert first["target"] == {
        "type": "sampling_session", "sampling_session_id": "sampling", "cloned_sampler_id": 0
    }  # fmt: skip
    assert (first["prev_cursor"], second["prev_cursor"]) == (0, 2)
    assert not first.get("retrieved_request_ids")
    assert not second.get("retrieved_request_ids")


def test_an_end_that_was_named_before_it_was_waited_for(
    scripted: ScriptedServer, sampler: SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its sample asked for the server's configuration: the result is fetched at once."""
    monkeypatch.setattr(session_poll, "_PATIENCE_S", 60)
    config = json_response({"sample_use_retrieve_futures": True})
    both_asked, both_named = threading.Event(), threading.Event()

    def first(_: Received) -> Response:
        assert both_asked.wait(10)
        return config

    def second(_: Received) -> Response:
        both_asked.set()
        assert both_named.wait(10)
        return config

    def fetched(_: Received) -> Response:
        both_named.set()
        return json_response({"sequences": [{"tokens": [7], "stop_reason": "length"}]})

    over = threading.Event()

    def nothing_new(_: Received) -> Response:
        over.wait(30)
        return ended(cursor=2)

    scripted.script("client/config", first, second)
    scripted.script("retrieve_futures", ended("r0", "r1", cursor=2), nothing_new)
    scripted.futures |= {"r0": [fetched], "r1": [fetched]}

    try:
        for future in [sampler.sample(PROMPT, 1, THREE) for _ in range(2)]:
            assert future.result(10).sequences[0].tokens == [7]
    finally:
        over.set()


@pytest.mark.parametrize(
    "answer",
    [json_response({"detail": "Not Found"}, 404), json_response({"completions": 3}), json_response({}, 400)],
    ids=["missing", "malformed", "refused"],
)
def test_where_it_fails_each_result_is_polled_for(
    scripted: ScriptedServer, sampler: SamplingClient, answer: Response
) -> None:
    """Though the server said that it has it; a missing route is not asked for again."""
    scripted.script("retrieve_futures", answer)

    for _ in range(2):
        assert sampler.sample(PROMPT, 1, THREE).result(10).sequences[0].tokens == [7]

    assert routes(scripted).count("retrieve_futures") == (1 if answer.status == 404 else 2)


def test_an_end_that_is_not_named_in_time_is_polled_for(
    scripted: ScriptedServer, sampler: SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server names others."""
    monkeypatch.setattr(session_poll, "_PATIENCE_S", 0.2)
    scripted.script("retrieve_futures", ended("other"))

    assert sampler.sample(PROMPT, 1, THREE).result(10).sequences


def test_a_server_that_does_not_say_that_it_has_it_is_not_asked(
    scripted: ScriptedServer, sampler: SamplingClient
) -> None:
    """Its results are polled for one by one."""
    scripted.script("client/config", json_response({}))

    assert sampler.sample(PROMPT, 1, THREE).result(10).sequences

    assert "retrieve_futures" not in routes(scripted)


def test_a_repeated_number_is_not_waited_for(scripted: ScriptedServer, sampler: SamplingClient) -> None:
    """Its end may have been named long ago, and to another client."""
    scripted.script("retrieve_futures", ended("r0"))
    sampler.sample(PROMPT, 1, THREE, seq_id=5).result(10)

    sampler.sample(PROMPT, 1, THREE, seq_id=5).result(10)
    sampler.sample(PROMPT, 1, THREE, seq_id=3_000_000_000).result(10)

    assert routes(scripted).count("retrieve_futures") == 1


def test_nothing_polls_for_a_cancelled_sample(scripted: ScriptedServer) -> None:
    """Nor keeps the loop busy."""
    scripted.script("client/config", json_response({"sample_use_retrieve_futures": True}))
    scripted.script("asample", json_response({"request_id": "r0"}))
    asked, release = threading.Event(), threading.Event()

    def held(_: Received) -> Any:
        asked.set()
        release.wait(10)
        return ended()

    scripted.script("retrieve_futures", held)

    async def call() -> set[str]:
        async with ServiceClient.on_caller_loop("tml-test", scripted.url) as service:
            sampler = service.attach_sampling_client("sampling")
            sample = sampler.sample(PROMPT, 1, THREE)
            await asyncio.to_thread(asked.wait, 10)
            assert sample.cancel()
            for _ in range(50):  # turns of the loop, in which the cancellation is carried through
                await asyncio.sleep(0)
            return {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]

    left = asyncio.run(call())
    release.set()

    assert not any("SessionPoll" in name for name in left)


def test_many_samples_of_the_dev_server_are_those_of_single_polls(
    server: DevServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal tokens, with and without the long poll."""

    def tokens() -> list[Any]:
        with make_service(server.url) as service:
            sampler = service.create_sampling_client(base_model="tiny-lm")
            params = [SamplingParams(max_tokens=8, seed=seed) for seed in range(12)]
            return [one.result(30).sequences[0].tokens for one in [sampler.sample(PROMPT, 1, p) for p in params]]

    together = tokens()
    monkeypatch.setattr(session_poll.SessionPoll, "_is_offered", never)

    assert tokens() == together


async def never(_: object) -> bool:
    """The server has no long poll."""
    return False
