"""The command ``nsai-work dev-server``."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from backends.tinkex_dev.options import DEFAULT_PORT, Order


def dev_server(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    state: Annotated[
        Path | None, typer.Option(help="Folder for runs and checkpoints. [default: dev-server in NSAI_WORK_HOME]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the base weights and adapters.")] = 0,
    latency_ms: Annotated[float, typer.Option(min=0, help="Delay added to every HTTP call.")] = 0,
    work_ms: Annotated[float, typer.Option(min=0, help="Delay added to every operation of a model.")] = 0,
    session_ttl_s: Annotated[float, typer.Option(min=0.1, help="Idle time after which a session ends.")] = 120,
    require_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the only API key to accept. [default: that in TINKER_DEV_SERVER_KEY, else any that"
            " begins with tml-]"
        ),
    ] = None,
    require_key: Annotated[str | None, typer.Option(hidden=True)] = None,
    max_runs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of live models; beyond it, 429. [default: unlimited]")
    ] = None,
    no_replay: Annotated[
        bool, typer.Option("--no-replay", help="Run a repeated seq_id again, as some servers do.")
    ] = False,
    order: Annotated[
        Order,
        typer.Option(
            help="Order of a model's operations: by seq_id, by arrival, or strict: by arrival, and one that is not"
            " the next fails."
        ),
    ] = Order.SEQ_ID,
    json_only: Annotated[bool, typer.Option("--json-only", help="Refuse protobuf, as some servers do.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print URL and process id as JSON.")] = False,
) -> None:
    """Run a Tinker-compatible server on this machine: real training of a tiny model, no key, no GPU."""
    from backends.tinkex_dev.errors import StateUnusable
    from backends.tinkex_dev.required_key import required_key
    from backends.tinkex_dev.server import DEV_KEY, DevServer
    from crucible.errors import InvalidRequest
    from nsai_work.files.home import home_folder
    from nsai_work.files.user_paths import expanded

    try:
        folder = expanded(str(state)) if state is not None else home_folder() / "dev-server"
        key = required_key(require_key_file, on_command_line=require_key is not None)
    except InvalidRequest as error:
        typer.echo(f"error: {error.message}", err=True)
        raise typer.Exit(2) from None
    server = DevServer(
        folder,
        host=host,
        port=port,
        seed=seed,
        latency_ms=latency_ms,
        work_ms=work_ms,
        session_ttl_s=session_ttl_s,
        require_key=key,
        max_runs=max_runs,
        replay=not no_replay,
        order=order,
        protobuf=not json_only,
    )
    stop = _stop_on_signals()
    try:
        server.start()
    except StateUnusable as error:
        typer.echo(f"error: {error.message}; choose another folder with --state", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"error: cannot listen on {host}:{port}: {error.strerror}; choose another --port", err=True)
        raise typer.Exit(2) from None
    with _announced(server.url):
        if as_json:
            typer.echo(json.dumps({"url": server.url, "pid": os.getpid()}))
        else:
            typer.echo(f"listening on {server.url}")
            shown = DEV_KEY if key is None else "(the required key)"
            typer.echo(f"export TINKER_BASE_URL={server.url} TINKER_API_KEY={shown}")
        sys.stdout.flush()
        stop.wait()
        server.stop()


def _stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


@contextlib.contextmanager
def _announced(url: str) -> Iterator[None]:
    """Publish the server's URL in the discovery file while the context is open."""
    from backends.tinkex.discovery import dev_server_file
    from nsai_work.files.home import make_private_folder, write_private_file

    file = dev_server_file()
    make_private_folder(file.parent)
    write_private_file(file, json.dumps({"url": url, "pid": os.getpid()}).encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(file.read_text()).get("pid") == os.getpid():
                file.unlink()
