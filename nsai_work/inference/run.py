"""Runs an inference job: completes a single prompt, or a prompt file into an answer file."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from crucible.backend import Backend
from crucible.errors import AuthenticationFailed, CrucibleError
from nsai_work.control import Control
from nsai_work.inference.answers import COMPLETE, AnswerFile, finish_reasons
from nsai_work.inference.prompts import PromptRow, check_unchanged, read_prompts
from nsai_work.interruptible import InterruptibleAwaiter
from nsai_work.payloads import Inference

EmitEvent: TypeAlias = Callable[[str, dict[str, JsonValue]], Awaitable[None]]


async def run_inference(
    payload: Inference, backend: Backend, *, control: Control, event: EmitEvent
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
            completion = await wait(backend.complete(payload.prompt))
            result: dict[str, JsonValue] = completion.model_dump(mode="json")
            await _report_incomplete(event, Counter(finish_reasons(result)))
            return result
        return await wait(_answer_file(payload, backend, event))
    finally:
        await wait.close()


async def _answer_file(payload: Inference, backend: Backend, event: EmitEvent) -> dict[str, JsonValue]:
    assert payload.input is not None
    assert payload.output is not None
    source, output = Path(payload.input.path), Path(payload.output)
    await asyncio.to_thread(check_unchanged, payload.input)
    total = await asyncio.to_thread(_count, source)
    answers = AnswerFile(output)
    try:
        await _Batch(backend, answers, event, total).run(read_prompts(source), payload.concurrency)
        await asyncio.to_thread(answers.sort)
    finally:
        answers.close()
    tally = answers.tally
    await _report_incomplete(event, tally.finish_reasons)
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


async def _report_incomplete(event: EmitEvent, reasons: Counter[str]) -> None:
    """Report answers that were cut, refused or filtered: the job succeeds, and says so."""
    incomplete: dict[str, JsonValue] = {name: n for name, n in sorted(reasons.items()) if name not in COMPLETE}
    if incomplete:
        await event("inference.incomplete", {"answers": reasons.total(), "finish_reasons": incomplete})


def _count(source: Path) -> int:
    return sum(1 for _ in read_prompts(source))


class _Batch:
    """Concurrent tasks over a stream of prompts, with memory independent of the file's size."""

    def __init__(self, backend: Backend, answers: AnswerFile, event: EmitEvent, total: int) -> None:
        self._backend = backend
        self._answers = answers
        self._event = event
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
        for row in rows:
            if self._answers.has(row):
                await asyncio.sleep(0)  # a long run of answered rows must not block the loop
            else:
                await self._answer(row)

    async def _answer(self, row: PromptRow) -> None:
        try:
            completion = await self._backend.complete(row.prompt)
        except CrucibleError as error:
            if error.retryable or isinstance(error, AuthenticationFailed):
                raise
            self._answers.add(row, error=error.failure())
        else:
            self._answers.add(row, completion=completion)
        if self._answers.tally.done % max(1, self._total // 100) == 0:
            await self._report_progress()

    async def _report_progress(self) -> None:
        tally = self._answers.tally
        progress: dict[str, JsonValue] = {"done": tally.done, "total": self._total, "failed": tally.failed}
        await self._event("inference.progress", progress)
