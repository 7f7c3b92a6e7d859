"""The check of training data at submit: every row is read, and rendered as the worker will."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from crucible.backend import Backend, TrainingBackend
from crucible.errors import BackendError, CallerError, CommandMissing
from nsai_work.client.validation.job_place import about
from nsai_work.data.check import check_file
from nsai_work.data.mixture import Mixture
from nsai_work.data.rendering.rules import Rendering
from nsai_work.errors import InvalidJob
from nsai_work.payloads import Payload, ReinforcementStep, TrainingStep
from nsai_work.training.evaluation import read_examples
from nsai_work.training.objectives import Objective
from nsai_work.training.rollouts.prompts import PromptLimit, read_prompts
from nsai_work.training.sources.data_source import rendering_of

DataProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with the path of a file, the bytes read and the bytes of the file."""


def check_shares(payload: Payload) -> None:
    """Raise InvalidJob if a source of a mixture would never be drawn."""
    if isinstance(payload, TrainingStep) and payload.data.sources:
        Mixture.of([file.weight for file in payload.data.sources], payload.seed)


class DataCheck:
    """Reads the training data of jobs, and creates their environments. A job whose model's tokenizer is
    not to be had in this process is only read, not rendered; with ``runs_here`` that is an error. So is an
    environment that this process lacks, or may not import, as its module is not in ``allow``."""

    def __init__(
        self, *, runs_here: bool = False, on_progress: DataProgress | None = None, allow: Sequence[str] = ()
    ) -> None:
        self._runs_here = runs_here
        self._allow = allow
        self._on_progress = on_progress
        self.unchecked: dict[str, str] = {}
        """The reasons, by job id, why jobs could not be checked here as far as by a worker."""
        self._renderings: dict[str, list[Rendering]] = {}

    async def find_models(self, backend: Backend, jobs: Sequence[tuple[str, Payload]]) -> None:
        """Find out how a backend renders the data of jobs, which are given by id and payload."""
        for job_id, payload in jobs:
            if not isinstance(payload, TrainingStep) or not isinstance(backend, TrainingBackend):
                continue
            try:
                with about(job_id):
                    rendering = await rendering_of(payload, backend)
            except (CallerError, BackendError) as error:
                if self._runs_here:
                    raise
                self.unchecked[job_id] = f"its data is read, but not rendered: {error.code}: {error.message}"
            else:
                self._renderings.setdefault(job_id, []).append(rendering)

    def read(self, jobs: Sequence[tuple[str, Payload]]) -> None:
        """Check the data of jobs; blocking. Equal checks are made once.

        Raises:
            InvalidJob, PluginError: rows are bad, and the error names the lines; or an environment is not usable.
        CommandMissing: it is not to be had here, where the job will run.
            DataChanged: a file has changed since it was pinned.
        """
        done: set[tuple[str, ...]] = set()
        for job_id, payload in jobs:
            with about(job_id):
                if isinstance(payload, ReinforcementStep):
                    self._check_environment(job_id, payload)
                    for model in self._renderings.get(job_id, ()):
                        _check_room(payload, PromptLimit(model.tokenizer, model.max_tokens))
                elif isinstance(payload, TrainingStep):
                    self._check_objective(job_id, payload)
                    self._read_once(job_id, payload, done)

    def _read_once(self, job_id: str, payload: TrainingStep, done: set[tuple[str, ...]]) -> None:
        renderings: Sequence[Rendering | None] = self._renderings.get(job_id) or [None]
        for rendering in renderings:
            held_out = payload.eval and payload.eval.model_dump_json()
            key = (payload.data.model_dump_json(), str(held_out), repr(rendering and rendering.key))
            if key not in done:
                done.add(key)
                self._read(payload, rendering)

    def _check_environment(self, job_id: str, payload: ReinforcementStep) -> None:
        # environments are no part of other methods
        from nsai_work.training.rollouts.environment import check_environment

        try:
            check_environment(payload, self._allow)
        except CommandMissing as error:
            if self._runs_here:
                raise
            self.unchecked[job_id] = f"payload.{error.message}"
            for index, file in enumerate(payload.data.files()):
                if file.job is None:
                    read_prompts(payload.data, index)

    def _check_objective(self, job_id: str, payload: TrainingStep) -> None:
        if payload.objective is None:
            return
        try:
            Objective(payload.objective, allow=self._allow)
        except CommandMissing as error:
            if self._runs_here:
                raise
            self.unchecked[job_id] = error.message

    def _read(self, payload: TrainingStep, rendering: Rendering | None) -> None:
        checks: list[Callable[[], object]] = []
        for index, file in enumerate(payload.data.files()):
            if file.job is not None:
                # not there yet: the worker reads them
                continue
            report = None if self._on_progress is None else partial(self._on_progress, file.path)
            checks.append(partial(check_file, payload.data, index, rendering, on_progress=report))
        if payload.eval is not None and payload.eval.data is not None and payload.eval.data.job is None:
            other = rendering and rendering.of(payload.eval.data)
            held_out = payload.eval.data
            checks.append(partial(read_examples, lambda data: check_file(data, 0, other), held_out))
        _check_all(checks)


def _check_room(payload: ReinforcementStep, room: PromptLimit) -> None:
    """Check that prompts leave room for an answer. Where bad rows are skipped, such a rollout ends at once: the
    numbers of tasks do not depend on what a tokenizer says."""
    checks: list[Callable[[], object]] = []
    for index, file in enumerate(payload.data.files()):
        if file.job is None and payload.data.on_bad_row == "error":
            checks.append(partial(read_prompts, payload.data, index, room=room))
    held_out = None if payload.eval is None else payload.eval.data
    if held_out is not None and held_out.job is None and held_out.on_bad_row == "error":
        checks.append(partial(read_examples, partial(read_prompts, room=room), held_out))
    _check_all(checks)


def _check_all(checks: Sequence[Callable[[], object]]) -> None:
    """Make checks of files, and raise one error for all that fail. Raises InvalidJob, DataChanged."""
    errors: list[InvalidJob] = []
    for check in checks:
        try:
            check()
        except InvalidJob as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InvalidJob(
            "\n".join(error.message for error in errors),
            details={**errors[0].details, "files": [error.details for error in errors]},
        )
