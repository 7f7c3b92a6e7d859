"""Sessions of people who know the token: a signed cookie, and a signed value in each form."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from nsai_work.clock import Clock, SystemClock

MIN_TOKEN: Final = 16
MAX_AGE_S: Final = 7 * 86_400


@dataclass(frozen=True)
class PageSessions:
    """The sessions of a page. ``token`` is None if the page is read-only; nothing of it is sent to a browser."""

    token: str | None
    clock: Clock = field(default_factory=SystemClock)

    def __repr__(self) -> str:
        return f"PageSessions({'read-only' if self.token is None else 'with a token'})"

    @property
    def cookie(self) -> str:
        """The name of the cookie: cookies ignore ports, and two pages on a host may have two tokens."""
        return f"nsai_work_{self._signature('name')[:8]}"

    def accepts(self, token: str) -> bool:
        """Check whether a text is the token."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def begin(self, response: Response, *, secure: bool) -> None:
        """Set the cookie of a new session. ``secure`` if the page is reached by HTTPS."""
        name = f"{int(self.clock.now().timestamp())}.{secrets.token_urlsafe(16)}"
        response.set_cookie(
            self.cookie,
            f"{name}.{self._signature(f'session {name}')}",
            max_age=MAX_AGE_S,
            httponly=True,
            samesite="strict",
            secure=secure,
        )

    def end(self, response: Response) -> None:
        """Delete the cookie."""
        response.delete_cookie(self.cookie, httponly=True, samesite="strict")

    def form_key(self, request: Request) -> str | None:
        """The value that a form of this session must carry; None without a valid session."""
        if self.token is None:
            return None
        name, _, signature = request.cookies.get(self.cookie, "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(f"session {name}").encode()):
            return None
        began = name.partition(".")[0]
        if not began.isdigit() or self.clock.now().timestamp() - int(began) > MAX_AGE_S:
            return None
        return self._signature(f"form {name}")

    def _signature(self, text: str) -> str:
        return hmac.new((self.token or "").encode(), text.encode(), hashlib.sha256).hexdigest()
