"""Keeps credentials out of what is stored, shown and sent around: out of jobs, and out of the names of accounts."""

import re
from collections.abc import Iterator

from nsai_work.errors import InvalidJob
from nsai_work.job import storable

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
LONGEST_ACCOUNT_NAME = 200
HINT = "a job never carries credentials; set the backend's environment variable where the worker runs"


def refuse_credentials(data: object) -> None:
    """Raise InvalidJob for the first field that is named or looks like a credential. Its value is not repeated."""
    for field in _suspects(data, ""):
        raise InvalidJob(f"{field}: looks like a credential; {HINT}", details={"fields": [field]})


def account_name(text: str) -> str:
    """The text itself, if it can be the name of an account: not empty, not long, and not the account's key.

    Raises:
        ValueError: it cannot. The message says why and does not repeat the text.
    """
    if not text.strip():
        raise ValueError("must not be empty")
    if len(text) > LONGEST_ACCOUNT_NAME:
        raise ValueError(f"must not be longer than {LONGEST_ACCOUNT_NAME} characters")
    if _VALUE.match(text.strip()):
        raise ValueError("looks like a key; give the account a name of your own, which is stored and shown")
    return storable(text)


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
