"""A store behind PgBouncer in transaction mode, which runs each transaction on another connection of the server."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import make_url

from nsai_work import submit
from nsai_work.client.connections import close_connections
from nsai_work.errors import StoreUnavailable
from nsai_work.store import Store, open_store
from tests.rig import Rig, command, new_database, until

PGBOUNCER: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(PGBOUNCER is None, reason="needs the program pgbouncer"),
]

CONFIG: Final = """
[databases]
* = host={host} port={server_port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_tls_sslmode = disable
{as_user}
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def pooled_url(postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """A database of its own, through PgBouncer in transaction mode."""
    assert PGBOUNCER is not None
    with ExitStack() as stack:
        direct = make_url(stack.enter_context(new_database(postgres_url)))
        port = free_port()
        config = tmp_path / "pgbouncer.ini"
        config.write_text(
            CONFIG.format(
                host=direct.host or "127.0.0.1",
                server_port=direct.port or 5432,
                user=direct.username,
                port=port,
                # it refuses to run as root
                as_user="user = nobody" if os.geteuid() == 0 else "",
            )
        )
        with (tmp_path / "pgbouncer.log").open("wb") as log:
            process = subprocess.Popen([PGBOUNCER, config], stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        until(lambda: _accepts(port), "pgbouncer listens", (tmp_path / "pgbouncer.log").read_text)
        yield direct.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_jobs_run_behind_a_pooler_without_settings(pooled_url: str, tmp_path: Path) -> None:
    """More jobs than server connections, submitted and run at once; each ends once."""
    rig = Rig(tmp_path, pooled_url, f"spool://localhost{tmp_path}/spool")
    try:
        worker = rig.start_worker()
        handles = [submit(command("echo", arguments={"value": n}), rig.settings()) for n in range(30)]
        assert [handle.result(timeout=120) for handle in handles] == [{"value": n} for n in range(30)]
        assert {handle.job().attempt for handle in handles} == {1}
        assert "store.pooler_found" in worker.text()
        assert "store.connection_lost" not in worker.text()
        assert not rig.store.sends_notifications
    finally:
        rig.close()


def test_doctor_names_the_pooler(pooled_url: str, tmp_path: Path) -> None:
    """And what is off because of it."""
    rig = Rig(tmp_path, pooled_url, f"spool://localhost{tmp_path}/spool")
    rig.store.ping()
    close_connections()

    shown = subprocess.run(
        [sys.executable, "-m", "nsai_work.cli", "doctor", "--json"],
        env=rig.environment(),
        capture_output=True,
        check=False,
        timeout=120,
    )

    [database] = [check for check in json.loads(shown.stdout) if check["subject"] == "database"]
    assert database["verdict"] == "ok"
    assert "through a connection pooler, so without prepared statements and notifications" in database["detail"]
    assert "a worker's death is noticed by its lease alone, after 5 s" in database["detail"]


def test_prepared_statements_forced_behind_a_pooler_fail_with_the_way_out(pooled_url: str) -> None:
    """``prepared=on`` is obeyed; what comes of it is an error of the store, not a mistake in the program."""
    forced = make_url(pooled_url).update_query_dict({"prepared": "on"}).render_as_string(hide_password=False)
    stores = [open_store(forced) for _ in range(8)]
    try:
        with pytest.raises(StoreUnavailable, match=r"does not keep prepared statements.*set prepared=off"):
            _submit_through(stores)
    finally:
        for store in stores:
            store.close()


def _submit_through(stores: list[Store]) -> None:
    for number in range(200):
        stores[number % len(stores)].submit([command("noop")])


def test_a_direct_connection_is_not_taken_for_a_pooler(postgres_url: str) -> None:
    """Notifications stay on."""
    with new_database(postgres_url) as url:
        store = open_store(url)
        store.ping()
        assert not store.database.pooled
        assert store.sends_notifications
        store.close()
