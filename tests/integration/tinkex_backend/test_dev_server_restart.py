"""A backend that found a development server by its file finds it again wherever it is started anew."""

import json
import os
from pathlib import Path

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible import Options, Prompt
from crucible.errors import BackendUnavailable
from crucible.recovery import RecoveryPolicy, RecoveryRequest
from crucible.testing.loop import run_opened
from crucible.training import CheckpointRef

IMPATIENT = {"give_up_after_s": 0.5, "ask_within_s": 2.0}


def prompt() -> Prompt:
    """A short one."""
    return Prompt(messages=[{"role": "user", "content": "Hi"}], options=Options(max_tokens=2, seed=1))


def announce(home: Path, url: str) -> None:
    """As the server's command does."""
    home.mkdir(exist_ok=True)
    (home / "dev-server.json").write_text(json.dumps({"url": url, "pid": os.getpid()}))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place where development servers tell of themselves, and no other word on where a service is."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path / "home"))
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_a_restart_on_another_port_is_followed(home: Path, tmp_path: Path, training) -> None:
    """Completions, new runs and recoveries all go to where the server is now."""

    async def body(opened: TinkexBackend) -> None:
        before = await opened.complete(prompt())
        run = await opened.start(training.spec)
        await training.steps(run, 1, 2)
        saved = await training.save(run, "a", 2)
        await run.close()
        first.stop()
        with DevServer(tmp_path / "server", seed=0) as second:
            assert second.url != first.url
            with pytest.raises(BackendUnavailable):
                await opened.start(training.spec)
            announce(home, second.url)
            assert (await opened.complete(prompt())).choices == before.choices
            assert (await opened.health_check()).details["base_url"] == second.url
            ref = CheckpointRef(path=saved.path, name="a", step=2)
            request = RecoveryRequest(run.ref, training.spec, "test", RecoveryPolicy(enabled=True), (ref,))
            recovered = await opened.recover(request, observe=lambda event: None)
            assert len(await training.steps(recovered.run, 3, 1)) == 1
            await recovered.run.close()

    with DevServer(tmp_path / "server", seed=0) as first:
        announce(home, first.url)
        run_opened(TinkexBackend(IMPATIENT), body)


def test_an_address_that_was_given_is_kept(home: Path, tmp_path: Path, server: DevServer) -> None:
    """Another server's file moves nobody who was told where to go."""

    async def body(opened: TinkexBackend) -> str:
        announce(home, "http://127.0.0.1:9")
        await opened.complete(prompt())
        return opened.service.connection.server

    assert run_opened(TinkexBackend({"base_url": server.url, **IMPATIENT}), body) == server.url
