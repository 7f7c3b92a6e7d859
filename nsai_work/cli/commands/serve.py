"""``nsai-work serve``: an OpenAI-compatible server on this machine, over any backend."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import JsonValue

from crucible.errors import InvalidRequest
from nsai_work.cli.model_choice import BackendName, CheckpointChoice, chosen_model
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.cli.store_access import close_all, load_settings

DEFAULT_PORT: Final = 8765


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="ID[:CHECKPOINT] of a training job, path of a checkpoint, or base model; can be repeated. Only"
            " these are served. [default: all models of the backend]"
        ),
    ] = None,
    backend: BackendName = None,
    checkpoint: CheckpointChoice = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = DEFAULT_PORT,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the key that clients must send. [default: that in NSAI_WORK_SERVE_KEY, else none]"
        ),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the URL and the models as a line of JSON.")
    ] = False,
) -> None:
    """Serve models as an OpenAI-compatible API on this machine, until stopped.

    Clients use the printed URL as their base URL, and any API key unless one is set here.
    """
    from crucible.runtime.monotonic import new_event_loop

    key = _key(key_file, load_settings().serve_key)
    name, models = _models(model or [], backend, checkpoint)
    close_all()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(name, models, port, key, json_output=json_output))


async def _serve(backend: str, models: Mapping[str, str], port: int, key: str | None, *, json_output: bool) -> None:
    from nsai_work.chat_server.server import chat_server

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with chat_server(backend, models, port=port, key=key) as url:
        if json_output:
            ready: dict[str, JsonValue] = {
                "url": url,
                "backend": backend,
                "models": [*models],
                "key": key is not None,
            }
            write_json(ready, indent=None)
        else:
            write_line(f"serving {', '.join(models) or f'all models of {backend}'} at {url}")
            shown = "KEY (the key that you set)" if key else "none"
            write_line(f"export OPENAI_BASE_URL={url} OPENAI_API_KEY={shown}")
        await stop.wait()


def _models(names: list[str], backend: str | None, checkpoint: str | None) -> tuple[str, dict[str, str]]:
    """Return the backend, and its models by the names under which they are served.

    Raises:
        InvalidRequest: the models are of several backends, or as ``chosen_model``.
    """
    if not names:
        return chosen_model(None, backend, checkpoint)[0], {}
    found = {name: chosen_model(name, backend, checkpoint) for name in names}
    backends = sorted({place for place, _ in found.values()})
    if len(backends) > 1:
        raise InvalidRequest.of("--model", names, f"they are at several backends: {', '.join(backends)}")
    models = {name: path or name for name, (_, path) in found.items()}
    # a client may also use the path, as the backend does
    return backends[0], {**models, **{path: path for path in models.values()}}


def _key(file: Path | None, key: str | None) -> str | None:
    """Return the key from the file, else that of the environment. Raises InvalidRequest for an unusable one."""
    from nsai_work.files.key_file import is_key, read_key_file

    if file is not None:
        return read_key_file("--key-file", file)
    if key and not is_key(key):
        raise InvalidRequest("NSAI_WORK_SERVE_KEY: it must be one line of printable ASCII")
    return key or None
