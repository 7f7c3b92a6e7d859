"""Runs an inference job: one prompt into its completion, or a file of prompts into a file of answers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from crucible.backend import Backend
from crucible.errors import AuthenticationFailed, CrucibleError
from nsai_work.control import Control
from nsai_work.inference.answers import Answers
from nsai_work.inference.prompts import PromptRow, check_unchanged, read_prompts
from nsai_work.interruptible import InterruptibleAwaiter
from nsai_work.payloads import Inference

Tell: TypeAlias = Callable[[str, dict[str, JsonValue]], Awaitable[None]]


async def run_inference(
    payload: Inference, backend: Backend, *, control: Control, event: Tell
) -> dict[str, JsonValue]:
    """The job's result: the completion as JSON, or what the file of answers adds up to.

    A row whose prompt is at fault is answered by its error and the others go on. What concerns the service (it is
    away, over capacity, out of credit, refuses the credential) ends the attempt; the rows that are answered stay
    answered, and the next attempt asks only for the others.

    Raises:
        InvalidJob, DataChanged: the input or output is not usable.
        Canceled, JobTimeout, HandOver, LeaseLost: ``control`` said stop.
        CrucibleError: what the backend raised, as above.
    """
    wait = InterruptibleAwaiter(control)
    try:
        if payload.prompt is not None:
            completion = await wait(backend.complete(payload.prompt))
            return completion.model_dump(mode="json")
        return await wait(_answer_file(payload, backend, event))
    finally:
        await wait.close()


async def _answer_file(payload: Inference, backend: Backend, event: Tell) -> dict[str, JsonValue]:
    assert payload.input is not None
    assert payload.output is not None
    source, output = Path(payload.input.path), Path(payload.output)
    await asyncio.to_thread(check_unchanged, payload.input)
    total = await asyncio.to_thread(_count, source)
    answers = Answers(output)
    try:
        await _Batch(backend, answers, event, total).run(read_prompts(source), payload.concurrency)
        await asyncio.to_thread(answers.put_in_order)
    finally:
        answers.close()
    tally = answers.tally
    return {
        "output": str(output),
        "rows": tally.done,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
    }


def _count(source: Path) -> int:
    return sum(1 for _ in read_prompts(source))


class _Batch:
    """Several workers over one stream of prompts, so that memory does not grow with the file."""

    def __init__(self, backend: Backend, answers: Answers, event: Tell, total: int) -> None:
        self._backend = backend
        self._answers = answers
        self._event = event
        self._total = total

    async def run(self, rows: Iterator[PromptRow], concurrency: int) -> None:
        """Answer all rows that are not answered yet."""
        await self._tell()
        workers = [asyncio.create_task(self._work(rows)) for _ in range(min(concurrency, self._total))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await self._tell()

    async def _work(self, rows: Iterator[PromptRow]) -> None:
        for row in rows:
            if self._answers.has(row):
                await asyncio.sleep(0)  # a long run of answered rows must not hold the loop
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
            await self._tell()

    async def _tell(self) -> None:
        tally = self._answers.tally
        progress: dict[str, JsonValue] = {"done": tally.done, "total": self._total, "failed": tally.failed}
        await self._event("inference.progress", progress)
