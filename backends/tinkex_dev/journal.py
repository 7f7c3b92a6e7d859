"""The server's own account of what it really did, for tests that count."""

import json
import threading
from pathlib import Path
from typing import Any

from backends.tinkex_dev.clock import Clock, iso


class Journal:
    """Every operation that took effect, in the order in which it did, in memory and as JSON lines on disk.

    A repeated request that was answered from the record took no effect and is not here.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: list[dict[str, Any]] = []
        if path.exists():
            self._entries = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        self._file = path.open("a", encoding="utf-8")

    def write(self, *, model_id: str | None, seq_id: int | None, kind: str, **facts: object) -> None:
        """Add an entry. ``digest`` and ``step`` (the optimizer's, after the operation) are the usual facts."""
        with self._lock:
            entry = {
                "n": len(self._entries) + 1,
                "time": iso(self._clock.now()),
                "model_id": model_id,
                "seq_id": seq_id,
                "kind": kind,
                **facts,
            }
            self._entries.append(entry)
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def entries(self, *, model_id: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """The entries, of one model or of one kind if asked."""
        with self._lock:
            return [
                entry
                for entry in self._entries
                if model_id in (None, entry["model_id"]) and kind in (None, entry["kind"])
            ]

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._file.close()
