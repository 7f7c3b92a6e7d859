"""The route that reports usage: tokens and saves by hour, counted from the log of effects."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.clock import iso
from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.wire.exchange import answer, metadata_strings

_HOUR: Final = timedelta(hours=1)
_LONGEST: Final = timedelta(days=14)
_TRAINING: Final = ("forward_backward", "forward")
_SAVES: Final = ("save_weights", "save_weights_for_sampler", "save_weights_external")
_Bucket = tuple[datetime, str, str, str]
"""Hour, session, base model and type of usage."""


class BillingRoutes:
    """billing/usage/events. Tokens are counted, and nothing costs anything."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [Route("/billing/usage/events", self.usage)]

    async def usage(self, request: Request) -> Response:
        start, end = (_hour(request, name) for name in ("starting_on", "ending_before"))
        if start > self._service.clock.now() or not start < end <= start + _LONGEST:
            raise _refused("starting_on", "expected a past hour, at most 14 days before ending_before")
        entries = await asyncio.to_thread(self._service.effect_log.entries)
        counts = Counter[_Bucket]()
        for bucket, count in self._counted(entries):
            if start <= bucket[0] < end:
                counts[bucket] += count
        ordered = sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1:]))
        sessions = {session: self._session(session) for (_, session, _, _), _ in ordered}
        return answer({"data": [_event(*item) for item in ordered], "sessions": sessions})

    def _counted(self, entries: Iterable[dict[str, Any]]) -> Iterable[tuple[_Bucket, int]]:
        for entry in entries:
            hour = datetime.fromisoformat(entry["time"]).replace(minute=0, second=0, microsecond=0)
            kind = entry["kind"]
            if kind == "sample":
                place = (hour, entry["session"], entry["base_model"])
                if not entry["replayed"]:
                    yield (*place, "sampling_prefill"), entry["prompt_tokens"]
                    yield (*place, "sampling_sample"), entry["sampled_tokens"]
                continue
            run = self._service.runs.get(entry["model_id"] or "")
            if run is not None and kind in _TRAINING:
                yield (hour, run.session_id, run.base_model, "training"), entry.get("tokens", 0)
            elif run is not None and kind in _SAVES and "path" in entry:
                yield (hour, run.session_id, run.base_model, "checkpoint"), 1

    def _session(self, session_id: str) -> dict[str, object]:
        record = self._service.sessions.records.get(session_id)
        return {"user_metadata": None if record is None else metadata_strings(record.user_metadata)}


def _event(bucket: _Bucket, count: int) -> dict[str, object]:
    hour, session, base_model, kind = bucket
    info: dict[str, object] = {"type": kind, "count" if kind == "checkpoint" else "token_count": count}
    if kind == "sampling_prefill":
        info["cached"] = False
    return {
        "bucket_start": iso(hour),
        "bucket_end": iso(hour + _HOUR),
        "base_model": base_model,
        "session_id": session or None,
        "event_info": info,
    }


def _hour(request: Request, name: str) -> datetime:
    text = request.query_params.get(name, "")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _refused(name, f"{text!r} is not a time in ISO 8601") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment != moment.replace(minute=0, second=0, microsecond=0):
        raise _refused(name, f"{text} is not a whole hour")
    return moment


def _refused(name: str, message: str) -> Refused:
    return Refused(422, [{"type": "value_error", "loc": ["query", name], "msg": message}])
