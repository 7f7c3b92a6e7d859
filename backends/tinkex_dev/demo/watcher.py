"""Watcher of a run: shows its events as they are recorded, and returns its outcome."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from backends.tinkex_dev.demo.outcome import RunOutcome
from backends.tinkex_dev.demo.screen import Screen
from backends.tinkex_dev.remote_control import RemoteControl
from crucible.errors import RequestTimeout

if TYPE_CHECKING:
    from nsai_work import JobHandle

POLL_S = 0.05


class RunReporter:
    """Shows a run's events, and collects the step numbers that the plot and the comparison need."""

    def __init__(self, screen: Screen, total: int, *, show_steps: bool) -> None:
        self._screen = screen
        self._total = total
        self._show_steps = show_steps
        self._first_loss = 0.0
        self._last_step = 0
        self.corrupted_at = 0
        self.resumed_from = 0
        self.recoveries = 0

    def report(self, name: str, data: dict[str, Any]) -> None:
        """Handle the next event."""
        _, _, recovery = name.partition(".recovery.")
        handler = _HANDLERS.get(recovery or name)
        if handler is not None:
            handler(self, data)

    def _step(self, data: dict[str, Any]) -> None:
        step, loss = int(data["step"]), float(data["loss"])
        self._first_loss = self._first_loss or loss
        repeated, self._last_step = step <= self._last_step, max(step, self._last_step)
        every = max(1, self._total // 12)
        if self._show_steps and (step == 1 or step % every == 0 or repeated):
            self._screen.step(step, self._total, loss, self._first_loss, note="repeated" if repeated else "")

    def _saved(self, data: dict[str, Any]) -> None:
        if self._show_steps:
            self._screen.line("●", f"checkpoint at step {data['step']}", style="cyan", note=str(data["name"]))

    def _incident(self, data: dict[str, Any]) -> None:
        self.corrupted_at = int(data["step"]) - 1
        text = "the run is corrupted" if data["error"] == "run_corrupted" else str(data["error"])
        reason = f"before step {data['step']}: {str(data['reason']).partition(':')[0]}"
        self._screen.line("✗", text, style="bold red", note=reason)

    def _selected(self, data: dict[str, Any]) -> None:
        self._screen.line("↺", f"recovery selects the checkpoint of step {data['step']}", style="yellow")

    def _restored(self, data: dict[str, Any]) -> None:
        self.recoveries += 1
        self.resumed_from = int(data["from_step"])
        text = f"a new remote run continues from step {self.resumed_from}, weights and optimizer restored"
        self._screen.line("↺", text, style="yellow")

    def _verified(self, data: dict[str, Any]) -> None:
        text = f"proven: step {data['step']} has the same loss as before, {data['loss']!r}"
        self._screen.line("✓", text, style="green")

    def _cold(self, data: dict[str, Any]) -> None:
        self._screen.line("✗", f"the {data['missing']} was not restored", style="bold red")


_HANDLERS: Final[dict[str, Callable[[RunReporter, dict[str, Any]], None]]] = {
    "step": RunReporter._step,
    "checkpoint.committed": RunReporter._saved,
    "training.incident": RunReporter._incident,
    "checkpoint_selected": RunReporter._selected,
    "resume.restored": RunReporter._restored,
    "resume.verified": RunReporter._verified,
    "resume.cold": RunReporter._cold,
}


def watch_run(
    handle: "JobHandle", server: RemoteControl, screen: Screen, *, show_steps: bool, timeout_s: float
) -> RunOutcome:
    """Follow a run to its end and return its outcome.

    Raises:
        CrucibleError: the run failed; of the kind of its failure.
        RequestTimeout: it did not end within ``timeout_s``.
    """
    began = time.monotonic()
    reporter = RunReporter(screen, int(str(handle.job().payload["max_steps"])), show_steps=show_steps)
    seen = 0
    while True:
        # status first, then events: those before the end are then all read
        ended = handle.status().ended
        for event in handle.events(after=seen):
            reporter.report(event.name, event.data)
            seen = event.seq
        if ended:
            break
        if time.monotonic() - began > timeout_s:
            raise RequestTimeout(f"job {handle.id} has not ended after {timeout_s:g} s; see worker.log")
        time.sleep(POLL_S)
    result = handle.result(timeout=0)
    steps = handle.steps()
    screen.line("✓", f"done: {len(steps)} steps, loss {steps[0].loss:.4f} → {steps[-1].loss:.4f}", style="green")
    final = next(item for item in reversed(handle.checkpoints()) if item.kept and item.final)
    return RunOutcome(
        job_id=handle.id,
        losses=tuple(step.loss for step in steps),
        weights=server.checkpoint_digest(str(final.path)),
        model=str(result["model"]),
        resume=str(result.get("resume", "")),
        corrupted_at=reporter.corrupted_at,
        resumed_from=reporter.resumed_from,
        recoveries=reporter.recoveries,
    )
