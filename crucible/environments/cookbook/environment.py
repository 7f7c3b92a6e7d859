"""The builders of the tinker-cookbook as an environment: their groups, with their rewards, under our journal.

The package is the extra ``cookbook``: https://github.com/thinking-machines-lab/tinker-cookbook.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import Field, JsonValue

from crucible.environments.contract import Episode, Feedback, GroupEnvironment, RolloutContext
from crucible.environments.cookbook.builder import PACKAGE, Builder, find_builder
from crucible.environments.cookbook.episode import CookbookEpisode, CookbookGroup
from crucible.errors import CommandMissing, EnvironmentFailed, InvalidRequest
from crucible.prompt import Message
from crucible.runtime.own_loop import OwnLoop
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.record_reader import read_record

_THREAD: Final = "crucible cookbook"
_MODEL: Final = ("model_name_for_tokenizer", "model_name", "policy_model_name")
_GROUP: Final = ("group_size", "num_envs")
_GROUP_OF_SPLIT: Final = {"train": ("train_group_size",), "test": ("test_group_size", "validation_group_size")}
_BATCH: Final = ("batch_size", "groups_per_batch")
_RENDERER: Final = ("renderer_name", "policy_renderer_name")


class CookbookSettings(Record):
    """The settings of the environment ``cookbook``.

    ``builder`` is ``package.module:Name`` of an ``RLDatasetBuilder`` or an ``EnvGroupBuilder``, and ``args`` its
    fields. One that is a builder too is ``{builder: ..., args: ...}``. ``split`` is the data set that its tasks are
    from.
    """

    builder: str = Field(min_length=1, max_length=500, pattern=r"^[^:]+:[^:]+$")
    args: FiniteObject = Field(default_factory=dict)
    split: Literal["train", "test"] = "train"


class CookbookEnvironment(GroupEnvironment):
    """A data set of the cookbook's environments. A task is the group of one of its builders."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        """Validate settings; ``import_targets`` imports the builder, and ``open`` makes it.

        Raises:
            InvalidRequest: a setting is invalid; the error names it.
            CommandMissing: the package tinker-cookbook is not installed here.
        """
        self._settings = read_record(CookbookSettings, dict(settings or {}))
        if importlib.util.find_spec(PACKAGE) is None:
            raise CommandMissing(
                "environment cookbook: the package tinker-cookbook is not installed; "
                "pip install 'nsai-work[cookbook]'",
                details={"field": "environment.name"},
            )
        self._builder: Builder | None = None
        self._context: RolloutContext | None = None
        self._own = OwnLoop(_THREAD)
        self._data: Any = None
        self._batch = 0

    def import_targets(self, allow: Sequence[str]) -> None:
        settings = self._settings
        filled = {
            **dict.fromkeys(_MODEL, "the job's base_model"),
            **dict.fromkeys((*_GROUP, *_GROUP_OF_SPLIT[settings.split]), "the job's group_size"),
        }
        builder = find_builder("args.", settings.builder, settings.args, allow, filled | self._usual())
        from tinker_cookbook.rl.types import EnvGroupBuilder, RLDatasetBuilder

        if not issubclass(builder.target, (EnvGroupBuilder, RLDatasetBuilder)):
            raise InvalidRequest.of(
                "args.builder", settings.builder, "it must be an RLDatasetBuilder or an EnvGroupBuilder"
            )
        self._builder = builder

    def _usual(self) -> dict[str, str]:
        """Fields that the run sets unless the job does."""
        names = (*_RENDERER, *_BATCH)
        return {name: "the run" for name in names if name not in self._settings.args}

    def use_context(self, context: RolloutContext) -> None:
        self._context = context

    async def open(self) -> None:
        self._data = await self._own.run(self._opened)
        self._batch = len(await self._own.run(lambda: self._batch_of(0)))
        if self._batch < 1:
            raise EnvironmentFailed("the first batch of its data has no group")

    def tasks(self) -> int:
        return len(self._data) * self._batch

    async def close(self) -> None:
        self._own.close()

    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        del seed  # the cookbook's builders take none
        if not 0 <= task < self.tasks():
            raise InvalidRequest.of("task", task, f"0 to {self.tasks() - 1}")
        await self._own.current()
        # what has blocked a loop does not block that of the others again
        own = OwnLoop(_THREAD) if str(task) in self._own.blockers else self._own
        group = await own.run(lambda: self._begun(task, size, own), name=str(task))
        return group.members

    async def group_feedback(
        self, episodes: Sequence[Episode], transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> Sequence[Feedback]:
        del transcripts
        first = episodes[0]
        assert isinstance(first, CookbookEpisode)
        return await first.group.rewards(rewards)

    async def _opened(self) -> Any:
        assert self._builder is not None
        assert self._context is not None
        from tinker_cookbook.rl.types import EnvGroupBuilder

        from crucible.environments.cookbook.renderer import OWN_RENDERER, register

        register(self._context.model, self._context.tokenizer)
        known, args = self._builder.parameters, self._builder.arguments
        groups = (*_GROUP, *_GROUP_OF_SPLIT[self._settings.split])
        filled: dict[str, Any] = {name: self._context.model for name in _MODEL if name in known}
        filled |= {name: self._context.group_size for name in groups if name in known}
        filled |= {name: OWN_RENDERER for name in _RENDERER if name in known and name not in args}
        # where the job does not say, and the builder neither, each batch is a task
        filled |= {
            name: 1
            for name in _BATCH
            if name in known and name not in args and known[name].default is known[name].empty
        }
        if issubclass(self._builder.target, EnvGroupBuilder):
            return _OneTask(self._builder, filled)
        train, test = await self._builder.made(filled)()
        data = train if self._settings.split == "train" else test
        if data is None or not len(data):
            raise InvalidRequest.of("args.split", self._settings.split, f"{self._builder.name} has no such data")
        return data

    async def _batch_of(self, number: int) -> Sequence[Any]:
        batch: Sequence[Any] = self._data.get_batch(number)
        return batch

    async def _begun(self, task: int, size: int, own: OwnLoop) -> CookbookGroup:
        number, place = divmod(task, self._batch)
        batch = await self._batch_of(number)
        if not batch:
            raise EnvironmentFailed(f"batch {number} of its data has no group")
        # batches may be shorter than the first
        builder = batch[place % len(batch)]
        try:
            environments = list(await builder.make_envs())
            if len(environments) != size:
                raise EnvironmentFailed(
                    f"its builder makes groups of {len(environments)}; set group_size: {len(environments)}"
                )
            return CookbookGroup(task, builder, environments, own)
        except BaseException:
            await builder.cleanup()
            raise


class _OneTask:
    """The data of an ``EnvGroupBuilder`` that a job names itself."""

    def __init__(self, builder: Builder, filled: Mapping[str, Any]) -> None:
        self._builder, self._filled = builder, filled

    def __len__(self) -> int:
        return 1

    def get_batch(self, number: int) -> list[Any]:
        del number
        return [self._builder.made(self._filled)]
