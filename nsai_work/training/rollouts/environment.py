"""The environment that a job names, and the batch source of its rollouts."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Final

from crucible.backend import TrainingBackend
from crucible.environments import Environment, RewardEnvironment, RewardFunction, RolloutContext, load_environment
from crucible.environments.chat_model import check_model_names
from crucible.environments.registry import load_target
from crucible.errors import EnvironmentFailed, InvalidRequest
from crucible.runtime.own_thread import in_own_thread
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.journal import Journal
from nsai_work.payloads import EnvironmentSpec, ReinforcementStep, TrainingData
from nsai_work.training.evaluation import EVALUATED_PROMPTS, read_examples
from nsai_work.training.plan import Plan
from nsai_work.training.rollouts.episodes.asked_models import asked_models
from nsai_work.training.rollouts.episodes.environment_calls import (
    CLOSE_WITHIN_S,
    EpisodeBroken,
    OpenedEnvironment,
    called,
)
from nsai_work.training.rollouts.episodes.groups import GroupSampler
from nsai_work.training.rollouts.episodes.rollout import RolloutSettings
from nsai_work.training.rollouts.policies import PolicySamplers
from nsai_work.training.rollouts.prompts import PromptPlan, PromptSets, read_prompts
from nsai_work.training.rollouts.reference import RolloutReference
from nsai_work.training.rollouts.source import RolloutSource
from nsai_work.training.rollouts.task_evaluation import OpenedTasks, PolicyEvaluation
from nsai_work.training.rollouts.teacher import RolloutTeacher, teacher_messages
from nsai_work.training.sources.teacher import TeacherModels

OPEN_WITHIN_S: Final = 300.0
"""The time that an environment has to open, and to count its tasks."""
ROLLOUTS_PER_SAMPLE: Final = 2
"""The number of rollouts under way for each sample that may be."""


async def open_rollouts(
    job: Job,
    payload: ReinforcementStep,
    backend: TrainingBackend,
    journal: Journal,
    wait: InterruptibleAwaiter,
    *,
    allow: Sequence[str],
) -> tuple[Plan, RolloutSource, PolicyEvaluation | None]:
    """Open the environments of a job, and return its plan, its batch source, and its evaluation on tasks. ``allow``
    are the modules that jobs may name.

    Raises:
        InvalidJob, FileUnusable, DataChanged: the prompts or the settings are not usable.
        CommandMissing: this process may not import an environment, or lacks it.
        EnvironmentFailed: it cannot be opened.
        CrucibleError: the backend has no tokenizer for the model.
    """
    async with AsyncExitStack() as environments:
        tokenizer = await wait(backend.tokenizer(payload.base_model))
        context = (await wait(backend.capabilities())).context_lengths.get(payload.base_model) or payload.max_tokens
        concurrency = payload.sampling.concurrency
        rules = RolloutSettings(
            payload.sampling,
            tokenizer,
            min(context, payload.max_tokens),
            journal.keep_turn,
            asyncio.Semaphore(concurrency),
            asyncio.Lock(),
        )
        opened = await wait(
            _opened(
                environments,
                partial(environment_of, payload, allow),
                payload.environment,
                backend,
                "environment",
                RolloutContext(payload.base_model, tokenizer, payload.group_size),
            )
        )
        plan = Plan.of(
            payload,
            opened.tasks or payload.groups_per_step,
            batch_size=payload.groups_per_step,
            substeps=payload.substeps,
        )
        # others sample while an environment or the journal takes its time
        slots = asyncio.Semaphore(ROLLOUTS_PER_SAMPLE * concurrency)
        policies = PolicySamplers(journal, backend, records_sequences=payload.binds_sequences)
        evaluation = None
        if payload.eval is not None:
            sets = []
            for field, name, create_set, limits in _task_sets(payload, allow):
                context_of_set = RolloutContext(payload.base_model, tokenizer, limits.samples)
                found = await wait(
                    _opened(environments, create_set, limits.environment, backend, field, context_of_set)
                )
                sampling = payload.sampling.model_copy(update=_greedy(limits))
                runner = GroupSampler(
                    found.environment,
                    replace(rules, sampling=sampling),
                    journal,
                    limits.samples,
                    _slots(found, slots),
                )
                count = limits.limit if found.tasks is None else min(found.tasks, limits.limit)
                sets.append(OpenedTasks(name, found.environment, count, limits.samples, runner))
            evaluation = PolicyEvaluation(
                sets,
                policies,
                journal,
                job_id=job.id,
                seed=payload.seed,
                every=payload.eval.every,
                last_step=plan.total_steps,
            )
        prompts = opened.environment
        order = PromptPlan.of(payload, prompts) if isinstance(prompts, PromptSets) else None
        source = RolloutSource(
            job,
            payload,
            plan,
            opened.tasks,
            environments.pop_all(),
            GroupSampler(opened.environment, rules, journal, payload.group_size, _slots(opened, slots)),
            policies,
            journal,
            evaluation=evaluation,
            order=order,
            teacher=_teacher(payload, opened.environment, rules, backend, journal),
            reference=None
            if payload.kl is None
            else RolloutReference(payload.kl, payload.base_model, payload.references(), backend, journal),
        )
        return plan, source, evaluation


def _teacher(
    payload: ReinforcementStep,
    environment: Environment,
    rules: RolloutSettings,
    backend: TrainingBackend,
    journal: Journal,
) -> RolloutTeacher | None:
    if payload.teacher is None:
        return None
    assert isinstance(environment, RewardEnvironment)
    models = TeacherModels(backend, payload.base_model, field="payload.teacher.model")
    return RolloutTeacher(
        payload.teacher, payload.base_model, rules.tokenizer, environment.rows, rules.context, models, journal
    )


def _greedy(limits: "_TaskLimits") -> dict[str, object]:
    if limits.temperature:
        return {"temperature": limits.temperature}
    return {"temperature": 0.0, "top_p": 1.0, "top_k": None}


@dataclass(frozen=True, slots=True)
class _TaskLimits:
    """The number of tasks that are evaluated, of their answers, and the temperature of these."""

    environment: EnvironmentSpec | None = None
    limit: int = sys.maxsize
    samples: int = 1
    temperature: float = 0.0


def _task_sets(
    payload: ReinforcementStep, allow: Sequence[str]
) -> Iterator[tuple[str, str, Callable[[], Environment], _TaskLimits]]:
    """Yield the sets of tasks of an evaluation: its field, its name, what creates its environment, its limits."""
    assert payload.eval is not None
    if (data := payload.eval.data) is not None:
        yield "eval.data", EVALUATED_PROMPTS, partial(_prompts, payload, data, "eval.data", allow), _TaskLimits()
    for number, each in enumerate(payload.eval.tasks):
        field = f"eval.tasks[{number}].environment"
        create = partial(_named, field, each.environment, allow)
        yield field, each.name, create, _TaskLimits(each.environment, each.limit, each.samples, each.temperature)


async def _opened(
    environments: AsyncExitStack,
    create: Callable[[], Environment],
    spec: EnvironmentSpec | None,
    backend: TrainingBackend,
    field: str,
    context: RolloutContext,
) -> OpenedEnvironment:
    """Open an environment of a job, and count its tasks. It is closed with ``environments``, however this ends."""
    limit = f"{OPEN_WITHIN_S:g} s"
    environment = await in_own_thread(create)
    environments.push_async_callback(_close_quietly, environment)
    models = {} if spec is None else asked_models(spec, backend)
    try:
        use_context = partial(environment.use_context, context)
        await called(lambda: in_own_thread(use_context), OPEN_WITHIN_S, f"{limit} in use_context()")
        if models:
            hand_over = partial(environment.use_models, models)
            await called(lambda: in_own_thread(hand_over), OPEN_WITHIN_S, f"{limit} in use_models()")
        await called(environment.open, OPEN_WITHIN_S, f"{limit} to open")
        tasks = await called(lambda: in_own_thread(environment.tasks), OPEN_WITHIN_S, f"{limit} in tasks()")
        most = await called(
            lambda: in_own_thread(environment.max_episodes), OPEN_WITHIN_S, f"{limit} in max_episodes()"
        )
    except EpisodeBroken as error:
        if isinstance(error.__cause__, InvalidRequest):
            raise error.__cause__ from None
        raise EnvironmentFailed(f"payload.{field}: the environment cannot be opened: {error}") from error
    if tasks is not None and (not isinstance(tasks, int) or tasks < 1):
        shown = f"{type(tasks).__name__} {tasks!r:.100}"
        raise EnvironmentFailed(
            f"payload.{field}: tasks() of the environment gave {shown}; it must be a number from 1, or None"
        )
    if most is not None and (not isinstance(most, int) or most < 1):
        raise EnvironmentFailed(f"payload.{field}: max_episodes() of the environment gave {most!r:.100}")
    return OpenedEnvironment(environment, tasks, most)


def _slots(opened: OpenedEnvironment, slots: asyncio.Semaphore) -> asyncio.Semaphore:
    """The places of an environment's rollouts: those of all, unless it has fewer."""
    return slots if opened.max_episodes is None else asyncio.Semaphore(opened.max_episodes)


async def _close_quietly(environment: Environment) -> None:
    # what an environment cannot release is its own matter: the run's outcome stands
    with suppress(EpisodeBroken):
        await called(environment.close, CLOSE_WITHIN_S, "its end may")


def check_environment(payload: ReinforcementStep, allow: Sequence[str]) -> None:
    """Check the environments of a job as far as they are known before the job runs: rows that another job makes are
    not there yet. Raises as ``environment_of``."""
    if not any(file.job for file in payload.data.files()):
        environment_of(payload, allow)
    else:
        with _of_payload("environment"):
            _reward_function(payload, allow)
    for field, _, create, _ in _task_sets(payload, allow) if payload.eval is not None else ():
        if field != "eval.data" or (payload.eval and payload.eval.data and payload.eval.data.job is None):
            create()


def environment_of(payload: ReinforcementStep, allow: Sequence[str]) -> Environment:
    """Create the environment of a job; blocking. Raises as ``open_rollouts``."""
    spec = payload.environment
    if spec is not None and spec.name is not None:
        return _named("environment", spec, allow)
    return _prompts(payload, payload.data, "environment", allow)


def _named(field: str, spec: EnvironmentSpec, allow: Sequence[str]) -> Environment:
    assert spec.name is not None
    with _of_payload(field):
        environment = load_environment(spec.name, spec.args, allow=allow)
        check_model_names(spec.models, tuple(environment.model_names()))
        return environment


def _prompts(payload: ReinforcementStep, data: TrainingData, field: str, allow: Sequence[str]) -> Environment:
    with _of_payload(field):
        function = _reward_function(payload, allow)
        if field == "eval.data":
            return RewardEnvironment(function, read_examples(read_prompts, data))
        sets = [read_prompts(data, index) for index in range(len(data.files()))]
        template = None if payload.teacher is None else payload.teacher.prompt
        for row in chain(*sets) if template is not None else ():
            teacher_messages(row, template)
        return PromptSets(function, sets) if data.sources else RewardEnvironment(function, sets[0])


def _reward_function(payload: ReinforcementStep, allow: Sequence[str]) -> RewardFunction:
    if payload.environment is None:
        return _no_reward
    name = payload.environment.reward
    assert name is not None
    function: object = load_target("environment.reward", name, allow=allow)
    if not callable(function):
        raise InvalidRequest.of("environment.reward", name, "it must name a function")
    return function


def _no_reward(prompt: object, completion: str, **row: object) -> float:
    """The reward of a run that learns from its reference alone."""
    del prompt, completion, row
    return 0.0


@contextmanager
def _of_payload(field: str) -> Iterator[None]:
    """Name the field of a payload in the error of an environment."""
    try:
        yield
    except InvalidRequest as error:
        if isinstance(error, InvalidJob) or type(error) is not InvalidRequest:
            raise
        named = error.message.startswith("environment.")
        where = error.message.replace("environment", field, 1) if named else f"{field}: {error.message}"
        raise InvalidJob(f"payload.{where}", details=error.details) from error
