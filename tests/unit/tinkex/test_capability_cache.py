"""What a backend says of a service that does not answer in time."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from backends.tinkex.capability_cache import CapabilityCache
from crucible.errors import BackendUnavailable
from crucible.runtime.waits import Wait, observed, waiting


class Seen:
    """What reaches the observer outside."""

    def __init__(self) -> None:
        self.reasons: list[str | None] = []

    def report(self, wait: Wait) -> None:
        """Keep a reason."""
        self.reasons.append(wait.reason)


@pytest.mark.parametrize("reason", [None, "no connection to the server (ConnectError: refused)"])
def test_an_answer_that_does_not_come_has_its_reason(reason: str | None) -> None:
    """That of the last attempt; who watches the work sees it too."""

    async def never() -> None:
        with waiting() as wait:
            if reason is not None:
                wait.because(reason)
            await asyncio.Event().wait()

    service: Any = SimpleNamespace(connection=SimpleNamespace(server="http://x"), get_server_capabilities=never)
    seen = Seen()
    with observed(seen), pytest.raises(BackendUnavailable) as caught:
        asyncio.run(CapabilityCache(service, timeout_s=0.01).fetch())

    assert caught.value.message == "no response from http://x within 0.01 s" + (f": {reason}" if reason else "")
    assert seen.reasons == ([] if reason is None else [reason, None])
