"""The environment that a job names, and the batch source of its rollouts."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from crucible.backend import TrainingBackend
from crucible.environments import Environment, RewardEnvironment, RewardFunction, load_environment
from crucible.environments.chat_model import check_model_names
from crucible.environments.registry import load_target
from crucible.errors import EnvironmentFailed, InvalidRequest
from crucible.runtime.own_thread import in_own_thread
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.journal import Journal
from nsai_work.payloads import ReinforcementStep
from nsai_work.training.plan import Plan
from nsai_work.training.rollouts.asked_models import asked_models
from nsai_work.training.rollouts.environment_calls import raised
from nsai_work.training.rollouts.prompts import read_prompts
from nsai_work.training.rollouts.source import RolloutSource


async def open_rollouts(
    job: Job,
    payload: ReinforcementStep,
    backend: TrainingBackend,
    journal: Journal,
    wait: InterruptibleAwaiter,
    *,
    allow: Sequence[str],
) -> tuple[Plan, RolloutSource]:
    """Open the environment of a job, and return its plan and batch source. ``allow`` are the modules that jobs may
    name.

    Raises:
        InvalidJob, FileUnusable, DataChanged: the prompts or the settings are not usable.
        CommandMissing: this process may not import the environment, or lacks it.
        EnvironmentFailed: it cannot be opened.
        CrucibleError: the backend has no tokenizer for the model.
    """
    tokenizer = await wait(backend.tokenizer(payload.base_model))
    context = (await wait(backend.capabilities())).context_lengths.get(payload.base_model) or payload.max_tokens
    environment, tasks = await wait(_opened(payload, backend, allow))
    plan = Plan.of(
        payload,
        payload.groups_per_step if tasks is None else tasks,
        batch_size=payload.groups_per_step,
    )
    source = RolloutSource(
        job,
        payload,
        plan,
        environment,
        tasks,
        tokenizer,
        backend,
        journal,
        context=min(context, payload.max_tokens),
    )
    return plan, source


async def _opened(
    payload: ReinforcementStep, backend: TrainingBackend, allow: Sequence[str]
) -> tuple[Environment, int | None]:
    """Open the environment of a job, and return the number of its tasks too."""
    environment = await in_own_thread(partial(environment_of, payload, allow))
    models = asked_models(payload.environment, backend)
    try:
        if models:
            await in_own_thread(partial(environment.use_models, models))
        await environment.open()
        tasks = await in_own_thread(environment.tasks)
    except (asyncio.CancelledError, InvalidRequest):
        raise
    except BaseException as error:
        raise EnvironmentFailed(f"the environment cannot be opened: {raised(error)}") from error
    if tasks is not None and (not isinstance(tasks, int) or tasks < 1):
        shown = f"{type(tasks).__name__} {tasks!r:.100}"
        raise EnvironmentFailed(f"tasks() of the environment gave {shown}; it must be a number from 1, or None")
    return environment, tasks


def check_environment(payload: ReinforcementStep, allow: Sequence[str]) -> None:
    """Check the environment of a job as far as it is known before the job runs: rows that another job makes are not
    there yet. Raises as ``environment_of``."""
    if payload.data.job is None:
        environment_of(payload, allow)
    else:
        with _of_payload():
            _reward_function(payload, allow)


def environment_of(payload: ReinforcementStep, allow: Sequence[str]) -> Environment:
    """Create the environment of a job; blocking. Raises as ``open_rollouts``."""
    with _of_payload():
        spec = payload.environment
        if spec.name is not None:
            environment = load_environment(spec.name, spec.args, allow=allow)
            check_model_names(spec.models, tuple(environment.model_names()))
            return environment
        return RewardEnvironment(_reward_function(payload, allow), read_prompts(payload.data))


def _reward_function(payload: ReinforcementStep, allow: Sequence[str]) -> RewardFunction:
    name = payload.environment.reward
    assert name is not None
    function: object = load_target("environment.reward", name, allow=allow)
    if not callable(function):
        raise InvalidRequest.of("environment.reward", name, "it must name a function")
    return function


@contextmanager
def _of_payload() -> Iterator[None]:
    """Name the field of a payload in the error of an environment."""
    try:
        yield
    except InvalidRequest as error:
        if isinstance(error, InvalidJob) or type(error) is not InvalidRequest:
            raise
        where = error.message if error.message.startswith("environment.") else f"environment: {error.message}"
        raise InvalidJob(f"payload.{where}", details=error.details) from error
