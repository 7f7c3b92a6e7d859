"""Wake-ups on the wire: the only kind of message, in Celery's message protocol 2."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from nsai_work.store.records import WakeUp

TASK_NAME = "nsai_work.wake"
MAX_BODY_BYTES = 4096


class BadWakeUp(StrEnum):
    """The reason why a message is not a wake-up."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    WRONG_SHAPE = "wrong_shape"
    UNKNOWN_TASK = "unknown_task"


@dataclass(frozen=True, slots=True)
class WireMessage:
    """The body and headers of a message."""

    body: bytes
    headers: dict[str, Any]
    correlation_id: str


def encode(wake_up: WakeUp) -> WireMessage:
    """Encode a wake-up as Celery's ``apply_async`` would."""
    body = json.dumps([[], wake_up.model_dump(mode="json"), {}], separators=(",", ":")).encode()
    headers = {
        "lang": "py",
        "task": TASK_NAME,
        "id": wake_up.job_id,
        "root_id": wake_up.job_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "nsai-work",
        "ignore_result": True,
    }
    return WireMessage(body=body, headers=headers, correlation_id=wake_up.job_id)


def decode(body: object) -> WakeUp | BadWakeUp:
    """Decode the body of a message: a wake-up, or the reason why it is not one. Never raises."""
    if isinstance(body, memoryview):
        body = bytes(body)
    if not isinstance(body, str | bytes):
        return BadWakeUp.NOT_JSON
    if len(body) > MAX_BODY_BYTES:
        return BadWakeUp.TOO_LARGE
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return BadWakeUp.NOT_JSON
    if not (isinstance(content, list) and len(content) == 3 and isinstance(content[1], dict)):
        return BadWakeUp.WRONG_SHAPE
    try:
        return WakeUp.model_validate(content[1])
    except ValidationError:
        return BadWakeUp.WRONG_SHAPE
