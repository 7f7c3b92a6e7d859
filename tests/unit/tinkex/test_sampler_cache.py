"""Sampling clients that prompts share, in a session of their own."""

import asyncio
from typing import Any

import pytest

from backends.tinkex.sampling.model_source import ModelSource
from backends.tinkex.sampling.sampler_cache import SamplerCache
from crucible.errors import InvalidRequest, NotFound, RunGone

SOURCE = ModelSource("tiny-lm", "tiny-lm")


class FakeSession:
    """A session; as a service, the sessions that it has made."""

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.ended = False
        self.clients = 0
        self.fails: Exception | None = None

    def with_new_session(self) -> "FakeSession":
        """A session of its own."""
        self.sessions.append(FakeSession())
        return self.sessions[-1]

    async def create_sampling_client_async(self, *_: Any) -> "FakeSession":
        """The session stands for its client."""
        await asyncio.sleep(0)
        self.clients += 1
        if self.fails is not None:
            raise self.fails
        return self

    async def end_sessions(self) -> None:
        """Stop its heartbeats."""
        self.ended = True


async def used(cache: SamplerCache, gone: set[FakeSession]) -> Any:
    """The client that a prompt is answered with."""

    async def call(client: Any) -> Any:
        await asyncio.sleep(0.001)
        if client in gone:
            raise RunGone("Sampling session not found")
        return client

    return await cache.use(SOURCE, call)


def test_prompts_that_find_their_session_ended_share_one_new_session() -> None:
    """None of them ends the session that another has just begun: its heartbeats would go on for ever, or stop while
    it is used."""

    async def scene() -> None:
        service: Any = FakeSession()
        cache = SamplerCache(service)
        [first] = {await used(cache, set()) for _ in range(3)}
        assert first.clients == 1

        found = await asyncio.gather(*(used(cache, {first}) for _ in range(5)))

        assert len(service.sessions) == 2
        assert [session.ended for session in service.sessions] == [True, False]
        assert set(found) == {service.sessions[1]}
        await cache.clear()
        assert service.sessions[1].ended

    asyncio.run(scene())


def test_a_session_that_ends_again_at_once_is_an_error() -> None:
    """And weights that do not exist are the prompt's, not the session's."""

    async def scene() -> None:
        service: Any = FakeSession()
        cache = SamplerCache(service)
        await used(cache, set())
        with pytest.raises(RunGone):
            await cache.use(SOURCE, _gone)
        await used(cache, set())
        service.sessions[-1].fails = NotFound("no such checkpoint")
        with pytest.raises(InvalidRequest, match=r"options\.model"):
            await cache.use(ModelSource("x", "x"), _gone)

    asyncio.run(scene())


async def _gone(_: Any) -> None:
    raise RunGone("Sampling session not found")
