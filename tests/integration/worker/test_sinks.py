"""Sinks of real runs on a development server: each step once, segments after a cold resume, no harm to the run."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from backends.tinkex_dev.server import DevServer
from crucible.errors import InvalidRequest
from nsai_work import Job, JobHandle, Settings, submit
from nsai_work.client.connections import close_connections
from nsai_work.errors import InvalidJob, StoreUnavailable
from nsai_work.sinks import fed_sink, feed, registry
from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment
from nsai_work.store.journal.adapter import StoreJournal
from nsai_work.worker import run_inline
from tests.conversations import write_conversations

Run = Callable[..., JobHandle]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevServer]:
    """The service that runs train on."""
    with DevServer(tmp_path / "server", seed=0) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", "tml-dev")
        yield server


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """A run of 24 steps that is evaluated every 6, with these sinks."""

    def make(*sinks: Mapping[str, Any]) -> Job:
        data = write_conversations(tmp_path / "conversations.jsonl", 8)
        return Job(
            kind="training_step",
            backend="tinkex",
            payload={
                "base_model": "tiny-lm",
                "data": {"path": str(data)},
                "lora": {"rank": 4},
                "optimizer": {"learning_rate": 0.01},
                "batch_size": 4,
                "max_steps": 24,
                "eval": {"every": 6, "data": {"path": str(data)}},
                "checkpoint_policy": {"save_every": 8},
                # a busy machine is taken for a far service, and more steps are under way at the fault
                "pipeline_depth": 2,
                "sinks": sinks,
            },
        )

    return make


@pytest.fixture
def run(
    server: DevServer, job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Run a job with these sinks to its end, in this process."""
    monkeypatch.setattr(feed, "INTERVAL_S", 0.01)
    monkeypatch.setattr(feed, "RETRY_S", 0.0)
    settings = Settings(home=tmp_path / "own", sweep_interval_s=0.1, poll_interval_s=0.1)

    def start(*sinks: Mapping[str, Any]) -> JobHandle:
        handle = submit(job(*sinks), settings)
        run_inline([handle.id], settings)
        return handle

    yield start
    close_connections()


def written(handle: JobHandle, folder: Path) -> list[dict[str, Any]]:
    """The lines of a job's file."""
    return [json.loads(line) for line in (folder / f"{handle.id}.jsonl").read_text().splitlines()]


def by_place(lines: Sequence[Mapping[str, Any]], segment: int = 1) -> dict[tuple[int, bool], dict[str, float]]:
    """The metrics of a segment by step and whether they are an evaluation's; each place is there once."""
    found = [line for line in lines if line["segment"] == segment and "step" in line]
    counts = Counter((line["step"], line.get("evaluation", False)) for line in found)
    assert set(counts.values()) <= {1}
    return {(line["step"], line.get("evaluation", False)): line["metrics"] for line in found}


def recorded(handle: JobHandle) -> dict[tuple[int, bool], float]:
    """The losses in the store by step, and whether they are an evaluation's."""
    steps = {(record.step, False): record.loss for record in handle.steps()}
    return steps | {(record.step, True): record.metrics["eval.loss"] for record in handle.evaluations()}


def losses(metrics: Mapping[tuple[int, bool], Mapping[str, float]]) -> dict[tuple[int, bool], float]:
    """The losses of points."""
    return {place: values["eval.loss" if place[1] else "loss"] for place, values in metrics.items()}


def test_each_step_is_written_once(run: Run, tmp_path: Path) -> None:
    """With its evaluations, as the store has them, in the home of the worker."""
    handle = run({"sink": "jsonl"})

    lines = written(handle, tmp_path / "own" / "metrics")
    assert losses(by_place(lines)) == recorded(handle)
    assert len(lines) == 24 + 5
    assert {"loss", "learning_rate", "tokens", "epoch", "grad_norm"} <= set(
        lines[-2]["metrics"] | lines[-1]["metrics"]
    )
    assert handle.result()["sinks"] == {"jsonl": {"step": 24, "segments": 1, "error": None}}


def test_steps_that_an_exact_restore_repeats_are_not_written_again(
    run: Run, server: DevServer, tmp_path: Path
) -> None:
    """One segment, each step once, equal to the store's."""
    server.fault(kind="corrupt", after_optim_steps=13)

    handle = run({"sink": "jsonl", "settings": {"folder": str(tmp_path / "out")}})

    assert handle.result()["resume"] == "exact"
    lines = written(handle, tmp_path / "out")
    assert losses(by_place(lines)) == recorded(handle)
    assert {line["segment"] for line in lines} == {1}


def test_after_a_cold_restore_a_segment_begins(run: Run, server: DevServer, tmp_path: Path) -> None:
    """It is marked, and has the steps after the checkpoint as they ran again; an event says so."""
    server.fault(kind="corrupt", after_optim_steps=13)
    server.fault(kind="cold_optimizer")

    handle = run({"sink": "jsonl", "settings": {"folder": str(tmp_path / "out")}})

    result = handle.result()
    assert (result["resume"], result["sinks"]["jsonl"]["segments"]) == ("cold", 2)
    lines = written(handle, tmp_path / "out")
    [mark] = [line for line in lines if "step" not in line]
    assert mark == {"segment": 2, "from_step": 8, "resume": "cold"}
    second = losses(by_place(lines, 2))
    assert second == {place: loss for place, loss in recorded(handle).items() if place[0] > 8}
    first = losses(by_place(lines))
    assert max(step for step, _ in first) >= 8
    assert [event.data for event in handle.events() if event.name == "sink.segment"] == [{"sink": "jsonl", **mark}]


def test_a_write_that_is_not_counted_is_not_repeated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner dies, or the store is away, after the lines are in the file and before the mark is."""
    real, failures = StoreJournal.advance_sink, [StoreUnavailable("away") for _ in range(3)]

    async def failing(self: StoreJournal, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await real(self, *arguments)

    monkeypatch.setattr(StoreJournal, "advance_sink", failing)
    handle = run({"sink": "jsonl"})

    assert not failures
    assert losses(by_place(written(handle, tmp_path / "own" / "metrics"))) == recorded(handle)
    assert handle.result()["sinks"]["jsonl"]["error"] is None


def test_a_sink_that_fails_does_not_hurt_the_run(run: Run, tmp_path: Path) -> None:
    """The result and one event name it and the reason; the other sink has everything."""
    (tmp_path / "file").write_text("mine")

    handle = run({"sink": "jsonl"}, {"sink": "tensorboard", "settings": {"folder": str(tmp_path / "file" / "x")}})

    result = handle.result()
    assert result["steps"] == 24
    assert result["sinks"]["jsonl"]["error"] is None
    reason = result["sinks"]["tensorboard"]["error"]
    assert reason
    assert [event.data for event in handle.events() if event.name == "sink.failed"] == [
        {"sink": "tensorboard", "reason": reason}
    ]
    assert losses(by_place(written(handle, tmp_path / "own" / "metrics"))) == recorded(handle)


class HangingSink(Sink):
    """Never returns from its first write."""

    released = threading.Event()

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        if settings:
            raise InvalidRequest("no settings")

    def open(self, run: SinkRun, segment: SinkSegment) -> SinkProgress:
        return SinkProgress()

    def write(self, points: Sequence[Point]) -> None:
        self.released.wait()

    def close(self) -> None:
        raise AssertionError("a call still runs")


def test_a_sink_that_hangs_does_not_hold_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left alone, and named."""
    monkeypatch.setattr(registry, "BUILT_IN", {"hanging": f"{__name__}:HangingSink"})
    load = registry.importlib.import_module
    monkeypatch.setattr(registry.importlib, "import_module", lambda name: sys.modules.get(name) or load(name))
    monkeypatch.setattr(fed_sink, "CALL_LIMIT_S", 0.2)

    handle = run({"sink": "hanging"})
    HangingSink.released.set()

    assert "has not returned" in handle.result()["sinks"]["hanging"]["error"]


@pytest.mark.parametrize(
    ("sinks", "reason"),
    [
        ([{"sink": "jsnol"}], "did you mean jsonl"),
        ([{"sink": "jsonl", "settings": {"foldr": "x"}}], r"payload\.sinks\.jsonl: foldr"),
        ([{"sink": "wandb", "settings": {"mode": "off"}}], r"payload\.sinks\.wandb: mode"),
        ([{"sink": "jsonl"}, {"sink": "jsonl"}], "named once"),
    ],
)
def test_a_wrong_sink_is_refused_at_submit(
    job: Callable[..., Job], server: DevServer, tmp_path: Path, sinks: list[Any], reason: str
) -> None:
    """By its field."""
    with pytest.raises(InvalidJob, match=reason):
        submit(job(*sinks), Settings(home=tmp_path / "own"))
    close_connections()
