"""The demo's script."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from backends.tinkex_dev.demo.folder import DemoFolder
from backends.tinkex_dev.demo.outcome import RunOutcome, compare
from backends.tinkex_dev.demo.plot import LossPlot
from backends.tinkex_dev.demo.screen import Screen
from backends.tinkex_dev.demo.stage import Stage, set_stage
from backends.tinkex_dev.demo.watcher import watch_run
from crucible.errors import CrucibleError
from crucible.rendering.plain_text import plain_line

if TYPE_CHECKING:
    from nsai_work import Job

BASE_MODEL = "tiny-lm"
WORK_MS = 10.0
"""Delay added to every operation, so that the run can be followed by eye."""
QUESTION = "What does a keel do?"
JOB_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps at which the run is saved and corrupted."""

    steps: int

    @property
    def save_every(self) -> int:
        """Steps between two of the six checkpoints of a run."""
        return max(1, self.steps // 6)

    @property
    def corrupt_after(self) -> int:
        """A step past the middle and past a checkpoint, so that there are steps to repeat."""
        return self.steps // 2 + max(2, self.save_every // 2)


class Story:
    """Two runs of the same job, one of them corrupted half-way, and their comparison."""

    def __init__(self, screen: Screen, folder: DemoFolder, *, steps: int) -> None:
        self._screen = screen
        self._folder = folder
        self._schedule = Schedule(steps)

    def run(self) -> bool:
        """Run the demo; returns whether both runs ended equal, bit for bit."""
        began = time.monotonic()
        self._screen.title("A training run is corrupted half-way, and recovers by itself.")
        self._screen.scene("A development server and a worker, each in its own process")
        with set_stage(self._folder, work_ms=WORK_MS) as stage:
            url = stage.server.url
            self._screen.line("✓", f"server  {url}", note="speaks the Tinker protocol; its gradients are real")
            self._screen.line("✓", f"worker  process {stage.worker_pid}", note="claims jobs from the store")
            corrupted = self._corrupted_run(stage)
            undisturbed = self._undisturbed_run(stage)
            equal = self._compare(corrupted, undisturbed)
            self._show_completions(corrupted)
        self._show_files(corrupted, undisturbed)
        self._close(equal, time.monotonic() - began)
        return equal

    def _corrupted_run(self, stage: Stage) -> RunOutcome:
        after = self._schedule.corrupt_after
        self._screen.scene(
            f'submit(Job(kind="training_step", backend="tinkex", ...)), corrupted after step {after}'
        )
        stage.server.fault(kind="corrupt", mode="flag", after_optim_steps=after)
        return self._run_job(stage, "corrupted", show_steps=True)

    def _undisturbed_run(self, stage: Stage) -> RunOutcome:
        self._screen.scene("The same job, undisturbed")
        stage.server.clear_faults()
        return self._run_job(stage, "undisturbed", show_steps=False)

    def _run_job(self, stage: Stage, name: str, *, show_steps: bool) -> RunOutcome:
        from nsai_work import submit

        handle = submit(self._job(name))
        self._screen.line("→", f"job {handle.id}")
        try:
            return watch_run(handle, stage.server, self._screen, show_steps=show_steps, timeout_s=JOB_TIMEOUT_S)
        except CrucibleError:
            self._screen.line("✗", f"see the worker's log, {_shown(self._folder.worker_log)}", style="red")
            raise

    def _job(self, name: str) -> "Job":
        from nsai_work import CheckpointPolicy, Job

        policy = CheckpointPolicy(strategy="steps", save_every=self._schedule.save_every, keep_last=3)
        payload: dict[str, JsonValue] = {
            "base_model": BASE_MODEL,
            "data": {"path": str(self._folder.data)},
            "lora": {"rank": 16},
            "optimizer": {"learning_rate": 4e-3},
            "batch_size": 8,
            "max_steps": self._schedule.steps,
            "seed": 7,
            "checkpoint_policy": policy.model_dump(mode="json"),
            "recovery": {"enabled": True, "backoff_ms": 200},
        }
        return Job(kind="training_step", backend="tinkex", name=f"demo: {name}", payload=payload)

    def _compare(self, corrupted: RunOutcome, undisturbed: RunOutcome) -> bool:
        self._screen.scene("Comparison of the two runs")
        comparisons = compare(corrupted, undisturbed)
        for item in comparisons:
            style = "green" if item.equal else "bold red"
            self._screen.line("✓" if item.equal else "✗", item.text, style=style, note=item.note)
        return all(item.equal for item in comparisons)

    def _show_completions(self, run: RunOutcome) -> None:
        from crucible import Options, Prompt, connect

        self._screen.scene(f'Completions before and after training: "{QUESTION}"')
        rows = []
        with connect("tinkex") as backend:
            for name, model in (("base model", BASE_MODEL), ("trained", run.model)):
                options = Options(model=model, temperature=0.0, max_tokens=60, stop=("\n",))
                prompt = Prompt.model_validate(
                    {"messages": [{"role": "user", "content": QUESTION}], "options": options}
                )
                rows.append((name, _printable(backend.complete(prompt).text)))
        self._screen.pairs(rows)

    def _show_files(self, corrupted: RunOutcome, undisturbed: RunOutcome) -> None:
        plot = LossPlot(
            undisturbed.losses,
            corrupted.losses,
            corrupted_at=corrupted.corrupted_at,
            resumed_from=corrupted.resumed_from,
        )
        self._folder.plot.write_text(plot.svg())
        self._screen.scene("Files")
        self._screen.pairs(
            [
                ("loss plot", _shown(self._folder.plot)),
                ("checkpoints", _shown(self._folder.server_state)),
                ("inspect", f"NSAI_WORK_HOME={_shown(self._folder.home)} {_command()} show {corrupted.job_id}"),
                ("the command", _command()),
            ]
        )

    def _close(self, equal: bool, seconds: float) -> None:
        self._screen.blank()
        if equal:
            text = "The recovered run equals the undisturbed one: every loss, every weight."
            self._screen.line("✓", text, style="bold green", note=f"{seconds:.0f} s")
        else:
            self._screen.line("✗", "The recovered run differs from the undisturbed one.", style="bold red")


def _printable(text: str) -> str:
    """A model's answer on one line, with escapes for unprintable characters."""
    return f'"{plain_line(text)}"'


def _command() -> str:
    """The command of this installation, which a shell may not find."""
    script = Path(sys.executable).parent / "nsai-work"
    return _shown(script) if script.exists() else f"{sys.executable} -m nsai_work.cli"


def _shown(path: Path) -> str:
    """A path, relative to the working directory if it is inside it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
