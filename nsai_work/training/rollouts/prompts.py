"""Prompt files: rows with a prompt, and columns that a reward function reads."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from crucible.environments import PromptTask
from crucible.prompt import Message
from nsai_work.data.containers import decoded, raw_rows
from nsai_work.data.dataset import field_of
from nsai_work.data.problems import FileProblem, RowProblem, RowProblems
from nsai_work.data.source import open_data
from nsai_work.payloads import TrainingData

_COLUMN = "prompt"


def read_prompts(data: TrainingData) -> list[PromptTask]:
    """Read the rows of a prompt file; blocking. Bad rows are left out if ``data.on_bad_row`` says so.

    Raises:
        InvalidJob: rows are bad, or there is none; the error names the lines.
        FileUnusable, DataChanged: the file cannot be read, or has changed.
    """
    [file] = data.files()
    field = field_of(data, 0)
    problems = RowProblems(field, file, skip=data.on_bad_row == "skip")
    rows: list[PromptTask] = []
    count = 0
    with open_data(field, file) as opened:
        try:
            for raw in raw_rows(opened):
                count += 1
                try:
                    rows.append(_task(decoded(raw)))
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
