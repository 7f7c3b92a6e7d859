"""A worker imports what a backend needs in a thread: on its event loop, an import of seconds would cost leases."""

import subprocess
import sys

from tests.contract.openai_server import KEY

PROGRAM = """
import asyncio, sys, threading
from nsai_work import Job
from nsai_work.clock import SystemClock
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.attempts.handlers import import_handler

class Finder:
    def find_spec(self, name, path=None, target=None):
        on_loop = threading.current_thread() is threading.main_thread()
        if on_loop and name.partition(".")[0] in ("openai", "httpx", "numpy", "nsai_work", "crucible", "backends"):
            print(name)

async def main():
    sys.meta_path.insert(0, Finder())
    pool = BackendPool(SystemClock())
    await asyncio.to_thread(pool.available)
    for name in ("openai", "fake", "python", "tinkex"):
        backend = await pool.get(name)
    for kind, payload in (
        ("training_step", {"base_model": "tiny-lm", "max_steps": 1, "data": {"path": "rows.jsonl"}}),
        ("inference", {"prompt": {"messages": [{"role": "user", "content": "Hi"}], "options": {"model": "m"}}}),
        ("tool_call", {"command": "echo"}),
    ):
        await import_handler(Job.parse({"kind": kind, "backend": "fake", "payload": payload}).parsed_payload)
    await pool.close()

asyncio.run(main())
assert {"openai.resources.chat", "nsai_work.training.driver", "nsai_work.inference.run"} <= sys.modules.keys()
"""


def test_opening_a_backend_imports_nothing_on_the_event_loop() -> None:
    """Nor does the first job of a kind. In a fresh process, since this one has imported all of it."""
    environment = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "TINKER_API_KEY": "tml-0123456789",
        "TINKER_BASE_URL": "http://127.0.0.1:9",
    }
    program = [sys.executable, "-W", "default", "-c", PROGRAM]

    ended = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
