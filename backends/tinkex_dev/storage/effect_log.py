"""Log of the operations that the server executed, for tests that count effects."""

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

from backends.tinkex_dev.clock import ServerClock, iso
from nsai_work.files.home import make_private_file


class EffectLog:
    """Every operation that took effect, in order of execution, as JSON lines on disk.

    A repeated request that was answered from the record of requests took no effect and is not listed, except for
    samples, whose entry then says ``replayed``. The log
    continues over restarts; a line cut short by a crash is skipped.
    """

    def __init__(self, path: Path, clock: ServerClock) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        before = path.read_bytes() if path.exists() else b""
        self._count = before.count(b"\n")
        self._file = make_private_file(path).open("a", encoding="utf-8")
        if before and not before.endswith(b"\n"):
            self._file.write("\n")

    def write(self, *, model_id: str | None, seq_id: int | None, kind: str, **facts: object) -> None:
        """Append an entry. Most carry ``digest`` and ``step`` (the optimizer's, after the operation)."""
        with self._lock:
            self._count += 1
            entry = {
                "n": self._count,
                "time": iso(self._clock.now()),
                "model_id": model_id,
                "seq_id": seq_id,
                "kind": kind,
                **facts,
            }
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def entries(self, *, model_id: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """All entries, or those of one model or one kind."""
        entries: list[dict[str, Any]] = []
        with self._path.open(encoding="utf-8") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if model_id in (None, entry["model_id"]) and kind in (None, entry["kind"]):
                        entries.append(entry)
        return entries

    def close(self) -> None:
        """Close the file; later writes fail."""
        self._file.close()
