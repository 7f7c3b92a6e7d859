"""Keeps credentials out of jobs: a job is stored, shown and sent around, so nothing secret may enter one."""

import re
from collections.abc import Iterator

from nsai_work.errors import InvalidJob

_NAMES = frozenset(
    (
        *("api_key", "apikey", "access_key", "private_key", "secret_key", "secret", "client_secret"),
        *("password", "passwd", "passphrase", "credential", "credentials", "authorization", "bearer"),
        *("token", "access_token", "auth_token", "bearer_token", "refresh_token", "session_token"),
        *("hf_token", "github_token"),
    )
)
_SUFFIXES = ("_api_key", "_apikey", "_password", "_secret", "_secret_key", "_access_token")
_VALUE = re.compile(r"^(sk|tml|hf|ghp|glpat|xoxb)[-_][A-Za-z0-9_-]{16,}$")
HINT = "a job never carries credentials; set the backend's environment variable where the worker runs"


def refuse_credentials(data: object) -> None:
    """Raise InvalidJob for the first field that is named or looks like a credential. Its value is not repeated."""
    for field in _suspects(data, ""):
        raise InvalidJob(f"{field}: looks like a credential; {HINT}", details={"fields": [field]})


def _suspects(data: object, path: str) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            place = f"{path}.{key}" if path else str(key)
            if isinstance(value, str) and value and _names_credential(str(key)):
                yield place
            yield from _suspects(value, place)
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _suspects(value, f"{path}[{index}]")
    elif isinstance(data, str) and _VALUE.match(data):
        yield path


def _names_credential(key: str) -> bool:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().replace("-", "_")
    return name in _NAMES or name.endswith(_SUFFIXES)
