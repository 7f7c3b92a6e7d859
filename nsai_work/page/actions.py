"""Actions of people who are signed in: cancel and retry a job, promote a checkpoint, sign in and out."""

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from crucible.errors import InvalidRequest
from nsai_work.client.connections import job_store
from nsai_work.client.handle import JobHandle
from nsai_work.errors import InvalidJob
from nsai_work.page.answers import Answers
from nsai_work.page.renderer import render
from nsai_work.settings import Settings

MAX_FORM: Final = 16_384
SEE_OTHER: Final = 303


class ActionForm(BaseModel):
    """The fields of an action's form. ``name`` is that of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    key: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Actions:
    """Changes jobs of the store, if the form is one of a session."""

    answers: Answers
    settings: Settings

    async def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        return await self._act(request, lambda form: job_store(self.settings).request_cancel(form.id))

    async def retry(self, request: Request) -> Response:
        """Queue an ended job again."""
        return await self._act(request, lambda form: JobHandle(form.id, self.settings).retry())

    async def promote(self, request: Request) -> Response:
        """Keep a checkpoint for good."""
        return await self._act(request, lambda form: JobHandle(form.id, self.settings).promote(form.name or ""))

    async def sign_in(self, request: Request) -> Response:
        """Show the form for the token, or take it."""
        values = self.answers.values(None, request, None) | {"is_wrong": False}
        sessions = self.answers.sessions
        if sessions.token is None:
            return PlainTextResponse("this page is read-only: it was started without NSAI_WORK_PAGE_TOKEN\n", 404)
        if request.method != "POST":
            return HTMLResponse(render("sign_in.html", values))
        if sessions.accepts(dict(await _fields(request)).get("token", "")):
            response = RedirectResponse("/", SEE_OTHER)
            sessions.begin(response, secure=request.headers.get("origin", "").startswith("https:"))
            return response
        return HTMLResponse(render("sign_in.html", values | {"is_wrong": True}), 403)

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        response = RedirectResponse("/", SEE_OTHER)
        self.answers.sessions.end(response)
        return response

    async def _act(self, request: Request, change: Callable[[ActionForm], object]) -> Response:
        form_key = self.answers.sessions.form_key(request)
        if form_key is None:
            return PlainTextResponse("sign in first: actions need a session\n", 403)
        form = parse_form(await _fields(request))
        if not hmac.compare_digest(form.key.encode(), form_key.encode()):
            return PlainTextResponse("this form is not of your session; open the page again\n", 403)
        await asyncio.to_thread(change, form)
        return RedirectResponse(f"/job?{urlencode({'id': form.id})}", SEE_OTHER)


def parse_form(fields: list[tuple[str, str]]) -> ActionForm:
    """Parse the fields of an action.

    Raises:
        InvalidRequest: a field is missing or unknown; the error names it, and no value.
    """
    try:
        return ActionForm.model_validate(dict(fields))
    except ValidationError as error:
        raise InvalidRequest(InvalidJob.from_validation(error, ActionForm).message) from None


async def _fields(request: Request) -> list[tuple[str, str]]:
    """The fields of a form. Raises InvalidRequest if there is too much of it."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise InvalidRequest(f"the form is larger than {MAX_FORM} bytes")
    return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
