"""A run as it happens: its events from the store, told on the screen, and what it came to."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from backends.tinkex_dev.demo.outcome import RunOutcome
from backends.tinkex_dev.demo.screen import Screen
from backends.tinkex_dev.remote_control import RemoteControl
from crucible.errors import RequestTimeout

if TYPE_CHECKING:
    from nsai_work import JobHandle

LOOK_EVERY_S = 0.05


class RunTelling:
    """Takes a run's events in order; shows what matters and remembers what is compared later."""

    def __init__(self, screen: Screen, total: int, *, show_steps: bool) -> None:
        self._screen = screen
        self._total = total
        self._show_steps = show_steps
        self._first_loss = 0.0
        self._furthest = 0
        self.corrupted_at = 0
        self.resumed_from = 0
        self.recoveries = 0

    def see(self, name: str, data: dict[str, Any]) -> None:
        """Take the next event."""
        _, _, recovery = name.partition(".recovery.")
        tell = _TOLD.get(recovery or name)
        if tell is not None:
            tell(self, data)

    def _step(self, data: dict[str, Any]) -> None:
        step, loss = int(data["step"]), float(data["loss"])
        self._first_loss = self._first_loss or loss
        again, self._furthest = step <= self._furthest, max(step, self._furthest)
        every = max(1, self._total // 12)
        if self._show_steps and (step == 1 or step % every == 0 or again):
            self._screen.step(step, self._total, loss, self._first_loss, note="again" if again else "")

    def _saved(self, data: dict[str, Any]) -> None:
        if self._show_steps:
            self._screen.line("●", f"checkpoint at step {data['step']}", style="cyan", note=str(data["name"]))

    def _incident(self, data: dict[str, Any]) -> None:
        self.corrupted_at = int(data["step"]) - 1
        what = "the run is corrupted" if data["error"] == "run_corrupted" else str(data["error"])
        reason = f"before step {data['step']}: {str(data['reason']).partition(':')[0]}"
        self._screen.line("✗", what, style="bold red", note=reason)

    def _selected(self, data: dict[str, Any]) -> None:
        self._screen.line("↺", f"recovery selects the checkpoint of step {data['step']}", style="yellow")

    def _restored(self, data: dict[str, Any]) -> None:
        self.recoveries += 1
        self.resumed_from = int(data["from_step"])
        text = f"a new remote run goes on from step {self.resumed_from}, weights and optimizer restored"
        self._screen.line("↺", text, style="yellow")

    def _verified(self, data: dict[str, Any]) -> None:
        text = f"proven: step {data['step']} has the loss it had before, {data['loss']!r}"
        self._screen.line("✓", text, style="green")

    def _cold(self, data: dict[str, Any]) -> None:
        self._screen.line("✗", f"the {data['missing']} did not come back", style="bold red")


_TOLD: Final[dict[str, Callable[[RunTelling, dict[str, Any]], None]]] = {
    "step": RunTelling._step,
    "checkpoint.committed": RunTelling._saved,
    "training.incident": RunTelling._incident,
    "checkpoint_selected": RunTelling._selected,
    "resume.restored": RunTelling._restored,
    "resume.verified": RunTelling._verified,
    "resume.cold": RunTelling._cold,
}


def watch_run(
    handle: "JobHandle", server: RemoteControl, screen: Screen, *, show_steps: bool, timeout_s: float
) -> RunOutcome:
    """Follow a run to its end.

    Raises:
        CrucibleError: it failed; the error is of the kind it failed with.
        RequestTimeout: it did not end in time.
    """
    began = time.monotonic()
    telling = RunTelling(screen, int(str(handle.job().payload["max_steps"])), show_steps=show_steps)
    seen = 0
    while True:
        # the status is read before the events: whatever led to the end is then among them
        ended = handle.status().ended
        for event in handle.events(after=seen):
            telling.see(event.name, event.data)
            seen = event.seq
        if ended:
            break
        if time.monotonic() - began > timeout_s:
            raise RequestTimeout(f"job {handle.id} has not ended after {timeout_s:g} s; worker.log may say why")
        time.sleep(LOOK_EVERY_S)
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
        corrupted_at=telling.corrupted_at,
        resumed_from=telling.resumed_from,
        recoveries=telling.recoveries,
    )
