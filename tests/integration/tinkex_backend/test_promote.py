"""Promote: kept at the service first, over real HTTP, and only then written down."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible.errors import AuthenticationFailed, BackendUnavailable, InvalidRequest, NotFound
from crucible.testing.loop import run_opened
from crucible.training import IntentKind, RunSpec
from nsai_work import Job, JobHandle, Settings, submit
from nsai_work.cli.app import app
from nsai_work.client.connections import close_connections
from nsai_work.worker import run_inline

HOUR_S = 3600


@pytest.fixture
def trained(server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A job that has ended, with checkpoints that live for an hour; only the last is final and lives for good."""
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path / "home"))
    (tmp_path / "data.jsonl").write_text('{"text": "the dog barks"}\n{"text": "the cat purrs"}\n')
    payload = {
        "base_model": "tiny-lm",
        "data": {"path": str(tmp_path / "data.jsonl")},
        "batch_size": 2,
        "max_steps": 3,
        "checkpoint_policy": {"save_every": 1, "keep_last": 5, "ttl": HOUR_S},
    }
    handle = submit(Job(kind="training_step", backend="tinkex", payload=payload))
    run_inline([handle.id], Settings())
    yield handle
    close_connections()


@pytest.fixture
def at_the_service(backend: TinkexBackend) -> Callable[[str], Any]:
    """Asks the service whether it still has a checkpoint."""

    async def ask(path: str) -> bool:
        async with backend:
            return (await backend.check_checkpoint(path, RunSpec(base_model="tiny-lm"))).usable

    return lambda path: asyncio.run(ask(path))


def listed(server: DevServer) -> dict[str, str | None]:
    """When each checkpoint expires, as the service has it."""
    address = f"{server.url}/api/v1/checkpoints"
    answer = httpx.get(address, headers={"X-API-Key": DEV_KEY}, trust_env=False).json()
    return {one["tinker_path"]: one["expires_at"] for one in answer["checkpoints"]}


def write(statement: str, *values: str) -> None:
    """Change the store behind everybody's back."""
    with closing(sqlite3.connect(Settings().home / "nsai-work.db")) as connection, connection:
        connection.execute(statement, values)


def test_a_promoted_checkpoint_outlives_its_ttl(
    trained: JobHandle, server: DevServer, at_the_service: Callable[[str], bool]
) -> None:
    """The one beside it, which nobody promoted, is gone when the hour has passed."""
    first, second, last = trained.checkpoints()
    assert (first.expires_at is None, second.expires_at is None, last.expires_at is None) == (False, False, True)

    kept = trained.promote(first.name)
    assert listed(server)[str(first.path)] is None
    assert listed(server)[str(second.path)] is not None
    server.fault(kind="advance_clock", seconds=HOUR_S + 1)

    assert kept.promoted
    assert kept.expires_at is None
    assert at_the_service(str(first.path))
    assert not at_the_service(str(second.path))
    assert trained.promote(first.name) == kept


def test_what_is_gone_at_the_service_is_not_written_down_as_kept(trained: JobHandle, server: DevServer) -> None:
    """The error says so, and names the checkpoint."""
    first = trained.checkpoints()[0]
    server.fault(kind="advance_clock", seconds=HOUR_S + 1)

    with pytest.raises(NotFound, match=f"{first.name}.*no longer exists at the service"):
        trained.promote(first.name)

    assert not trained.checkpoints()[0].promoted


def test_a_service_that_is_away_changes_nothing(
    trained: JobHandle, server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is promised that was not kept; afterwards it may be tried again."""
    monkeypatch.setenv("NSAI_WORK_SUBMIT_TIMEOUT_S", "0.5")
    first = trained.checkpoints()[0]
    server.stop()

    with pytest.raises(BackendUnavailable, match="Nothing was changed; try again"):
        JobHandle(trained.id).promote(first.name)

    assert trained.checkpoints()[0] == first


def test_a_service_that_refuses_the_credential_changes_nothing(trained: JobHandle, server: DevServer) -> None:
    """The error stays of its kind, and says what it means for the checkpoint."""
    first = trained.checkpoints()[0]
    server.fault(kind="route", route="training_runs", status=401)

    with pytest.raises(AuthenticationFailed, match=f"{first.name}.*Nothing was changed"):
        trained.promote(first.name)

    assert trained.checkpoints()[0] == first


def test_a_server_without_a_ttl_lets_nothing_expire(trained: JobHandle, server: DevServer) -> None:
    """It has no such route, and the promise is kept all the same."""
    server.fault(kind="route", route="training_runs", status=405, detail="Method Not Allowed")

    assert trained.promote(trained.checkpoints()[0].name).promoted
    assert not server.faults(), "it was asked"


def test_the_weights_to_sample_from_are_kept_too(
    trained: JobHandle, server: DevServer, training: Any, backend: TinkexBackend
) -> None:
    """Both at the service, before anything is written down; where one is gone, the error says what was changed."""
    first = trained.checkpoints()[0]

    async def save(name: str) -> str:
        run = await backend.start(training.spec)
        prepared = run.prepare_save(name, step=1, kind=IntentKind.SAVE_SAMPLER, ttl_s=HOUR_S)
        return (await (await run.send(prepared)).result()).path

    saved = run_opened(backend, lambda opened: save("s"))
    write("UPDATE nsai_checkpoints SET sampler_path = ? WHERE name = ?", saved, first.name)
    run_opened(backend, lambda opened: opened.delete_checkpoint(saved))
    with pytest.raises(NotFound, match=f"{first.path} no longer expires; nothing else was changed"):
        trained.promote(first.name)
    assert not trained.checkpoints()[0].promoted

    saved = run_opened(backend, lambda opened: save("s"))
    write("UPDATE nsai_checkpoints SET sampler_path = ? WHERE name = ?", saved, first.name)
    trained.promote(first.name)

    assert {path: listed(server)[path] for path in (first.path, saved)} == {first.path: None, saved: None}


def test_one_that_only_the_store_knew_to_be_kept(trained: JobHandle, server: DevServer) -> None:
    """Promoted again, it is kept at the service too: its row has no time any more, and the policy has."""
    first = trained.checkpoints()[0]
    write("UPDATE nsai_checkpoints SET promoted = 1, expires_at = NULL WHERE name = ?", first.name)
    assert listed(server)[str(first.path)] is not None

    trained.promote(first.name)

    assert listed(server)[str(first.path)] is None


def test_from_async_code(trained: JobHandle, server: DevServer) -> None:
    """The twin, and the blocking one inside of a loop, as a notebook calls it."""
    first, second, _ = trained.checkpoints()

    async def both() -> None:
        assert (await trained.apromote(first.name)).promoted
        assert trained.promote(second.name).promoted

    asyncio.run(both())

    assert [listed(server)[str(one.path)] for one in (first, second)] == [None, None]


def test_one_without_an_expiry_needs_no_service(trained: JobHandle, server: DevServer) -> None:
    """As before: it is a matter of the policy alone."""
    last = trained.checkpoints()[-1]
    server.stop()

    assert trained.promote(last.name).promoted


def test_names_that_are_none(trained: JobHandle) -> None:
    """An unknown name is not found, whatever it is."""
    for name in ("", "no such", "\u2028"):
        with pytest.raises((NotFound, InvalidRequest)):
            trained.promote(name)


def test_the_command_says_what_it_kept(trained: JobHandle) -> None:
    """For people and for scripts."""
    first = trained.checkpoints()[0]

    told = CliRunner().invoke(app, ["promote", trained.id, first.name, "--json"])

    said = json.loads(told.stdout)
    assert (said["name"], said["promoted"], said["kept"], said["expires_at"]) == (first.name, True, True, None)
