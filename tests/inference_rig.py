"""A backend that echoes prompts, and the running of a batch without a worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import JsonValue

from crucible import Backend, Capabilities, Choice, Completion, FinishReason, Message, Prompt, Usage
from crucible.backend import Health
from crucible.errors import CrucibleError, Unsupported
from crucible.stream import StreamEvent
from nsai_work.concurrency.control import Control
from nsai_work.inference import pin_prompts, run_inference
from nsai_work.inference.answers import unpacked
from nsai_work.journal import AnswerRow
from nsai_work.payloads import DataSource, Inference


class Echo(Backend):
    """A backend that echoes the prompt, later prompts sooner."""

    name: ClassVar[str] = "echo"

    def __init__(
        self,
        fails: Callable[[str], CrucibleError | None] = lambda text: None,
        ends: Callable[[str], FinishReason | None] = lambda text: FinishReason.STOP,
        waits_for: int = 1,
    ) -> None:
        super().__init__()
        self.fails = fails
        self.ends = ends
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.waits_for = waits_for
        self.together = asyncio.Event()

    async def capabilities(self) -> Capabilities:
        return Capabilities(backend_id="echo", provider="tests")

    async def complete(self, prompt: Prompt) -> Completion:
        text = prompt.messages[-1].text()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.most_at_once >= self.waits_for:
            self.together.set()
        # the rows come from a thread, which a busy machine delays
        await asyncio.wait_for(self.together.wait(), 30)
        for _ in range(20 - int(text) % 20):
            await asyncio.sleep(0)
        self.at_once -= 1
        self.asked.append(text)
        error = self.fails(text)
        if error is not None:
            raise error
        choice = Choice(message=Message(role="assistant", content=text), finish_reason=self.ends(text))
        return Completion(choices=(choice,), usage=Usage.of(1, 2))

    def stream(self, prompt: Prompt) -> AsyncIterator[StreamEvent]:
        raise Unsupported("echo does not stream")

    async def health_check(self) -> Health:
        return Health(ok=True)


def write_prompts(folder: Path, count: int = 30) -> DataSource:
    """Write a prompt file."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "prompt": str(n)}) + "\n" for n in range(1, count + 1)))
    return pin_prompts(DataSource(path=str(path)))


class JobLog:
    """The log and the answers of a job, across its attempts."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, JsonValue]]] = []
        self.kept: dict[int, AnswerRow] = {}

    async def event(self, name: str, data: dict[str, JsonValue]) -> None:
        self.entries.append((name, data))

    async def has_event(self, name: str) -> bool:
        return any(found == name for found, _ in self.entries)

    async def answers(self, after: int, limit: int) -> list[AnswerRow]:
        return [self.kept[line] for line in sorted(self.kept) if line > after][:limit]

    async def keep_answer(self, answer: AnswerRow) -> None:
        self.kept.setdefault(answer.line, answer)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The answers, in the order of the prompts."""
        return [unpacked(self.kept[line]) for line in sorted(self.kept)]


def run(
    payload: Inference, backend: Backend, control: Control | None = None, log: JobLog | None = None
) -> dict[str, Any]:
    """Run an attempt to completion; of a new job, unless its log is given."""
    job_log = log or JobLog()
    before = len(job_log.entries)

    async def work() -> dict[str, JsonValue]:
        return await run_inference(payload, backend, control=control or Control(), journal=job_log)

    result = asyncio.run(work())
    events = [data for name, data in job_log.entries[before:] if name == "inference.progress"]
    incomplete = [data for name, data in job_log.entries[before:] if name == "inference.incomplete"]
    return {"result": result, "events": events, "incomplete": incomplete}


def rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of an answer file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
