"""A sink that writes behind: what was asked of it is in a file two seconds later, or once it is closed."""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment


class BehindSink(Sink):
    """Appends steps and losses to ``kept.jsonl`` of its folder, and the steps at once to ``asked.jsonl``."""

    keeps_after_s: ClassVar[float] = 5.0

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        self._folder = Path(str(settings["folder"]))
        self._points: list[Point] = []
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, run: SinkRun, segment: SinkSegment) -> SinkProgress:
        self._folder.mkdir(exist_ok=True)
        self._closing.clear()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        return SinkProgress()

    def write(self, points: Sequence[Point]) -> None:
        self._points += points
        self._append("asked.jsonl", [point.step for point in points])

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _keep(self) -> None:
        is_closing = False
        while not is_closing:
            is_closing = self._closing.wait(2.0)
            points, self._points = self._points, []
            self._append("kept.jsonl", [[point.step, point.metrics["loss"]] for point in points])

    def _append(self, name: str, rows: Sequence[object]) -> None:
        with (self._folder / name).open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def install(folder: Path) -> dict[str, str]:
    """Register the sink in a folder. Returns the variables with which a process finds it."""
    metadata = folder / "behind-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: behind\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[nsai_work.sinks]\nbehind = tests.behind_sink:BehindSink\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[1]}"}
