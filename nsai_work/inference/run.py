"""Runs an inference job: completes a single prompt, or a prompt file into an answer file."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from pydantic import JsonValue

from crucible import Completion, Prompt
from crucible.backend import Backend
from crucible.errors import AuthenticationFailed, CrucibleError
from nsai_work.control import Control
from nsai_work.inference.answers import COMPLETE, AnswerFile, finish_reasons, refuse_existing
from nsai_work.inference.file_thread import FileThread
from nsai_work.inference.prompts import PromptRow, check_unchanged, read_prompts
from nsai_work.interruptible import InterruptibleAwaiter
from nsai_work.payloads import Inference
from nsai_work.traces import completion_span

BEGUN: Final = "inference.begun"
"""The event before the answer file is created. A job with it may open the file."""


class BatchJournal(Protocol):
    """The job's journal, of which a batch needs the events."""

    async def event(self, name: str, data: dict[str, JsonValue]) -> None:
        """Append an event."""
        ...

    async def has_event(self, name: str) -> bool:
        """Return whether the job has an event of this name, of any attempt."""
        ...


async def run_inference(
    payload: Inference, backend: Backend, *, control: Control, journal: BatchJournal
) -> dict[str, JsonValue]:
    """Run the job and return its result: the completion as JSON, or the totals of the answer file.

    An error of a single prompt becomes its answer. An error of the service (unavailable, over capacity, out of
    credit, credential refused) ends the attempt; its answers are kept, and the next attempt completes the missing
    prompts.

    Raises:
        InvalidJob, DataChanged: the input or output is unusable.
        Canceled, JobTimeout, HandOver, LeaseLost: ``control`` requested a stop.
        CrucibleError: an error of the service.
    """
    wait = InterruptibleAwaiter(control)
    try:
        if payload.prompt is not None:
            completion = await wait(complete(backend, payload.prompt))
            result: dict[str, JsonValue] = completion.model_dump(mode="json")
            await _report_incomplete(journal, Counter(finish_reasons(result)))
            return result
        return await wait(_answer_file(payload, backend, journal))
    finally:
        await wait.close()


async def complete(backend: Backend, prompt: Prompt) -> Completion:
    """Complete a prompt. The answer has the prompt's metadata beside its own."""
    with completion_span(backend.name, prompt) as record:
        completion = await backend.complete(prompt)
        record(completion)
    if not prompt.metadata:
        return completion
    return completion.model_copy(update={"metadata": {**prompt.metadata, **completion.metadata}})


async def _answer_file(payload: Inference, backend: Backend, journal: BatchJournal) -> dict[str, JsonValue]:
    assert payload.input is not None
    assert payload.output is not None
    source, output = Path(payload.input.path), Path(payload.output)
    begun = await journal.has_event(BEGUN)
    async with FileThread() as files:
        await files.run(check_unchanged, payload.input)
        total = await files.run(_count, source)
        if not begun:
            await files.run(refuse_existing, payload)
            await journal.event(BEGUN, {"output": str(output), "prompts": total})
        answers = await files.run(partial(AnswerFile, output, begun=begun))
        try:
            await _Batch(backend, answers, journal, files, total).run(read_prompts(source), payload.concurrency)
            await files.run(answers.sort)
        finally:
            await files.run(answers.close)
    tally = answers.tally
    await _report_incomplete(journal, tally.finish_reasons)
    return {
        "output": str(output),
        "rows": tally.done,
        "succeeded": tally.succeeded,
        "incomplete": tally.incomplete,
        "failed": tally.failed,
        "finish_reasons": dict(sorted(tally.finish_reasons.items())),
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
    }


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
        self, backend: Backend, answers: AnswerFile, journal: BatchJournal, files: FileThread, total: int
    ) -> None:
        self._backend = backend
        self._answers = answers
        self._journal = journal
        self._files = files
        self._total = total

    async def run(self, rows: Iterator[PromptRow], concurrency: int) -> None:
        """Complete all prompts without an answer, with at most ``concurrency`` at a time."""
        await self._report_progress()
        workers = [asyncio.create_task(self._work(rows)) for _ in range(min(concurrency, self._total))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await self._report_progress()

    async def _work(self, rows: Iterator[PromptRow]) -> None:
        while (row := await self._files.run(self._next_unanswered, rows)) is not None:
            await self._answer(row)

    def _next_unanswered(self, rows: Iterator[PromptRow]) -> PromptRow | None:
        return next((row for row in rows if not self._answers.has(row)), None)

    async def _answer(self, row: PromptRow) -> None:
        try:
            completion = await complete(self._backend, row.prompt)
        except CrucibleError as error:
            if error.retryable or isinstance(error, AuthenticationFailed):
                raise
            await self._files.run(partial(self._answers.add, row, error=error.failure()))
        else:
            await self._files.run(partial(self._answers.add, row, completion=completion))
        if self._answers.tally.done % max(1, self._total // 100) == 0:
            await self._report_progress()

    async def _report_progress(self) -> None:
        tally = self._answers.tally
        progress: dict[str, JsonValue] = {"done": tally.done, "total": self._total, "failed": tally.failed}
        await self._journal.event("inference.progress", progress)
