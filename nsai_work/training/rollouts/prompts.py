"""Prompt files: rows with a prompt, and columns that a reward function reads; and the order of several files."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

from pydantic import ValidationError

from crucible.environments import PromptTask, RewardEnvironment, RewardFunction
from crucible.errors import InvalidRequest
from crucible.options import Options
from crucible.prompt import Message, Prompt
from crucible.rendering.chat import chat_of
from crucible.rendering.tokenizer import Tokenizer
from nsai_work.data.containers import decoded, raw_rows
from nsai_work.data.dataset import field_of
from nsai_work.data.mixture import Mixture
from nsai_work.data.problems import FileProblem, RowProblem, RowProblems
from nsai_work.data.source import open_data
from nsai_work.payloads import ReinforcementStep, TrainingData
from nsai_work.training.sources.batches import MixturePlan

_COLUMN = "prompt"


class PromptSets(RewardEnvironment):
    """The prompts of several files as one environment: its tasks are those of one file after the other."""

    def __init__(self, function: RewardFunction, sets: Sequence[Sequence[PromptTask]]) -> None:
        for number, rows in enumerate(sets):
            try:
                RewardEnvironment(function, rows)
            except InvalidRequest as error:
                raise InvalidRequest(f"{error.message} (data.sources[{number}])", details=error.details) from None
        super().__init__(function, list(chain(*sets)))
        self.sizes = [len(rows) for rows in sets]


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """The order of the prompts of several files, by their shares of the groups. ``begins`` are the first task of
    each file."""

    mixture: MixturePlan
    begins: Sequence[int]

    @classmethod
    def of(cls, payload: ReinforcementStep, sets: PromptSets) -> "PromptPlan":
        """Return the order of a job's prompts. Raises InvalidJob: a share is too small."""
        ends = [0, *accumulate(sets.sizes)]
        shares = Mixture.of([file.weight for file in payload.data.sources], payload.seed)
        return cls(MixturePlan(shares, [range(*pair) for pair in pairwise(ends)]), ends[:-1])

    def tasks(self, first: int, count: int) -> list[int]:
        """Return the tasks of groups, counted from the beginning of the run."""
        return [self.mixture.row(number)[1] for number in range(first, first + count)]

    def source(self, task: int) -> int:
        """Return the file of a task."""
        return bisect_right(self.begins, task) - 1


@dataclass(frozen=True, slots=True)
class PromptLimit:
    """The context of a model, in tokens, which must have room for an answer behind each prompt."""

    tokenizer: Tokenizer
    context: int

    def check(self, messages: Sequence[Message]) -> None:
        """Raise RowProblem if a prompt leaves no room."""
        # a token is at least a byte of text; what a template adds is far less than half of a context
        if sum(len(message.text().encode(errors="replace")) + 64 for message in messages) < self.context // 2:
            return
        prompt = Prompt(messages=tuple(messages), options=Options(model="policy"))
        length = len(self.tokenizer.render_chat(chat_of(prompt)))
        if length >= self.context:
            raise RowProblem(
                f"has {length:,} tokens, and the limit is {self.context:,}",
                "shorten it, so that an answer has room in the model's context and in payload.max_tokens",
                _COLUMN,
            )


def read_prompts(data: TrainingData, index: int = 0, *, room: PromptLimit | None = None) -> list[PromptTask]:
    """Read the rows of a prompt file; blocking. Bad rows are left out if ``data.on_bad_row`` says so. With ``room``
    a prompt that leaves none for an answer is bad too.

    Raises:
        InvalidJob: rows are bad, or there is none; the error names the lines.
        FileUnusable, DataChanged: the file cannot be read, or has changed.
    """
    file, field = data.files()[index], field_of(data, index)
    problems = RowProblems(field, file, skip=data.on_bad_row == "skip")
    rows: list[PromptTask] = []
    count = 0
    with open_data(field, file) as opened:
        try:
            for raw in raw_rows(opened):
                count += 1
                try:
                    row = _task(decoded(raw))
                    if room is not None:
                        room.check(row.messages)
                    rows.append(row)
                except RowProblem as problem:
                    problems.add(raw.line, problem)
        except FileProblem as problem:
            raise problems.error(str(problem), problem.line) from None
    problems.raise_if_any(count)
    if not rows:
        raise problems.error("holds no prompt; at least one is required")
    return rows


def _task(row: Mapping[str, Any]) -> PromptTask:
    if _COLUMN not in row and "text" in row:
        row = {_COLUMN: row["text"], **{name: value for name, value in row.items() if name != "text"}}
    prompt = row.get(_COLUMN)
    if isinstance(prompt, str) and prompt:
        messages = [Message(role="user", content=prompt)]
    elif isinstance(prompt, list) and prompt:
        try:
            messages = [Message.model_validate(message) for message in prompt]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RowProblem(
                f"is no conversation: {where}: {first['msg']}", "each message needs role and content", _COLUMN
            ) from None
    else:
        raise RowProblem("is missing, or neither text nor messages", 'give "prompt" in each row', _COLUMN)
    columns = {str(name): value for name, value in row.items() if name != _COLUMN}
    return PromptTask(prompt, messages, columns)
