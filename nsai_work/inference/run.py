"""Runs an inference job: completes a single prompt, or a prompt file into answers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from pydantic import JsonValue

from crucible import Completion, Prompt
from crucible.backend import Backend
from crucible.errors import AuthenticationFailed, CrucibleError
from nsai_work.concurrency.control import Control
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.inference.answers import (
    COMPLETE,
    KeptAnswers,
    answer_of,
    finish_reasons,
    packed,
    unpacked,
    unpacked_line,
)
from nsai_work.inference.file_thread import FileThread
from nsai_work.inference.output import OutputFile, refuse_existing, require_folder
from nsai_work.inference.prompts import PromptRow, check_unchanged, read_prompts
from nsai_work.inference.score import AnswerScorer
from nsai_work.journal import AnswerRow
from nsai_work.payloads import Inference
from nsai_work.telemetry.traces import completion_span

Answer: TypeAlias = Callable[[Prompt], Coroutine[Any, Any, Completion]]
"""Completes a prompt, or scores the answer that it ends with."""
BEGUN: Final = "inference.begun"
"""The event before the first prompt is sent. A job without it has no output file yet."""
PAGE: Final = 500
"""The number of answers that are read from the store at once."""


class BatchJournal(Protocol):
    """The job's journal, of which a batch needs the events and the answers."""

    async def event(self, name: str, data: dict[str, JsonValue]) -> None:
        """Append an event."""
        ...

    async def has_event(self, name: str) -> bool:
        """Return whether the job has an event of this name, of any attempt."""
        ...

    async def answers(self, after: int, limit: int) -> list[AnswerRow]:
        """Return up to ``limit`` kept answers, those of the lines after ``after``, in order."""
        ...

    async def keep_answer(self, answer: AnswerRow) -> None:
        """Keep an answer."""
        ...


async def run_inference(
    payload: Inference, backend: Backend, *, control: Control, journal: BatchJournal
) -> dict[str, JsonValue]:
    """Run the job and return its result: the completion as JSON, or the totals of the answers.

    An error of a single prompt becomes its answer. An error of the service (unavailable, over capacity, out of
    credit, credential refused) ends the attempt; its answers are kept, and the next attempt completes the missing
    prompts. The output file, if the job names one, is written at the end.

    Raises:
        InvalidJob, DataChanged: the input or output is unusable.
        Canceled, JobTimeout, HandOver, LeaseLost: ``control`` requested a stop.
        CrucibleError: an error of the service.
    """
    wait = InterruptibleAwaiter(control)
    scorer = AnswerScorer(backend) if payload.score else None
    answer: Answer = partial(complete, backend) if scorer is None else scorer.score
    try:
        if payload.prompt is not None:
            completion = await wait(answer(_with_model(payload.prompt, payload)))
            result: dict[str, JsonValue] = completion.model_dump(mode="json")
            await _report_incomplete(journal, Counter(finish_reasons(result)))
            return result
        return await wait(_answer_file(payload, answer, journal))
    finally:
        await wait.close()
        if scorer is not None:
            await scorer.close()


async def complete(backend: Backend, prompt: Prompt) -> Completion:
    """Complete a prompt. The answer has the prompt's metadata beside its own."""
    with completion_span(backend.name, prompt) as record:
        completion = await backend.complete(prompt)
        record(completion)
    if not prompt.metadata:
        return completion
    return completion.model_copy(update={"metadata": {**prompt.metadata, **completion.metadata}})


def _with_model(prompt: Prompt, payload: Inference) -> Prompt:
    """A prompt with the model of the job, if it names none."""
    if prompt.options.model is not None or not isinstance(payload.model, str):
        return prompt
    return prompt.model_copy(update={"options": prompt.options.model_copy(update={"model": payload.model})})


async def _answer_file(payload: Inference, answer: Answer, journal: BatchJournal) -> dict[str, JsonValue]:
    assert payload.input is not None
    source, output = Path(payload.input.path), None if payload.output is None else Path(payload.output)
    async with FileThread() as files:
        await files.run(check_unchanged, payload.input)
        total = await files.run(_count, source)
        if output is not None:
            await files.run(require_folder, output)
        if not await journal.has_event(BEGUN):
            if output is not None:
                await files.run(refuse_existing, payload)
            await journal.event(BEGUN, {"output": payload.output, "prompts": total})
        answers = KeptAnswers()
        async for page in _pages(journal):
            for kept in await files.run(lambda rows: [unpacked(row) for row in rows], page):
                answers.add(kept)
        await _Batch(payload, answer, answers, journal, files, total).run(read_prompts(source))
        if output is not None:
            await _write_output(output, journal, files)
    tally = answers.tally
    await _report_incomplete(journal, tally.finish_reasons)
    return {
        "output": payload.output,
        "rows": tally.done,
        "succeeded": tally.succeeded,
        "incomplete": tally.incomplete,
        "failed": tally.failed,
        "finish_reasons": dict(sorted(tally.finish_reasons.items())),
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
    }


async def _pages(journal: BatchJournal) -> AsyncIterator[list[AnswerRow]]:
    """Yield the kept answers in pages, in the order of the prompts."""
    after = 0
    while page := await journal.answers(after, PAGE):
        yield page
        after = page[-1].line


async def _write_output(path: Path, journal: BatchJournal, files: FileThread) -> None:
    output = await files.run(OutputFile, path)
    try:
        async for page in _pages(journal):
            await files.run(lambda rows: output.write([unpacked_line(row) for row in rows]), page)
        await files.run(output.publish)
    finally:
        await files.run(output.close)


async def _report_incomplete(journal: BatchJournal, reasons: Counter[str]) -> None:
    """Report answers that were cut, refused or filtered: the job succeeds, and says so."""
    incomplete: dict[str, JsonValue] = {name: n for name, n in sorted(reasons.items()) if name not in COMPLETE}
    if incomplete:
        await journal.event("inference.incomplete", {"answers": reasons.total(), "finish_reasons": incomplete})


def _count(source: Path) -> int:
    return sum(1 for _ in read_prompts(source))


class _Batch:
    """Concurrent tasks over a stream of prompts, with memory independent of the file's size."""

    def __init__(
        self,
        payload: Inference,
        answer: Answer,
        answers: KeptAnswers,
        journal: BatchJournal,
        files: FileThread,
        total: int,
    ) -> None:
        self._payload = payload
        self._complete = answer
        self._answers = answers
        self._journal = journal
        self._files = files
        self._total = total
        self._keeping: set[asyncio.Task[None]] = set()

    async def run(self, rows: Iterator[PromptRow]) -> None:
        """Complete all prompts without an answer, with at most ``concurrency`` at a time."""
        await self._report_progress()
        workers = [
            asyncio.create_task(self._work(rows)) for _ in range(min(self._payload.concurrency, self._total))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._report_progress()

    async def _work(self, rows: Iterator[PromptRow]) -> None:
        while (row := await self._files.run(self._next_unanswered, rows)) is not None:
            await self._answer(row)

    def _next_unanswered(self, rows: Iterator[PromptRow]) -> PromptRow | None:
        return next((row for row in rows if not self._answers.has(row)), None)

    async def _answer(self, row: PromptRow) -> None:
        try:
            completion = await self._complete(_with_model(row.prompt, self._payload))
        except CrucibleError as error:
            if error.retryable or isinstance(error, AuthenticationFailed):
                raise
            await self._keep(answer_of(row, error=error.failure()))
        else:
            await self._keep(answer_of(row, completion=completion))
        if self._answers.tally.done % max(1, self._total // 100) == 0:
            await self._report_progress()

    async def _keep(self, answer: dict[str, Any]) -> None:
        """Keep an answer, also if the batch is stopped meanwhile: it was paid for."""
        task = asyncio.create_task(self._store(answer))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)
        await asyncio.shield(task)

    async def _store(self, answer: dict[str, Any]) -> None:
        await self._journal.keep_answer(await self._files.run(packed, answer))
        self._answers.add(answer)

    async def _report_progress(self) -> None:
        tally = self._answers.tally
        progress: dict[str, JsonValue] = {"done": tally.done, "total": self._total, "failed": tally.failed}
        await self._journal.event("inference.progress", progress)
