"""Rejects credentials in jobs and account names, so that they are never stored, shown or sent."""

import re
from collections.abc import Iterator

from crucible.values import printable
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
MAX_ACCOUNT_NAME = 200
ADVICE = "a job must not contain credentials; set the backend's environment variable where the worker runs"


def refuse_credentials(data: object) -> None:
    """Check that no field has the name or the form of a credential.

    Raises:
        InvalidJob: a field does; the error names the first such field, without its value.
    """
    for field in _suspects(data, ""):
        raise InvalidJob(f"{field}: looks like a credential; {ADVICE}", details={"fields": [field]})


def account_name(text: str) -> str:
    """Validate the name of an account and return it.

    Raises:
        ValueError: the name is empty, too long, or looks like a key. The message does not contain the name.
    """
    if not text.strip():
        raise ValueError("must not be empty")
    if len(text) > MAX_ACCOUNT_NAME:
        raise ValueError(f"must not be longer than {MAX_ACCOUNT_NAME} characters")
    if _VALUE.match(text.strip()):
        raise ValueError("looks like a key; choose a name for the account, which is stored and shown")
    return printable(text)


def _suspects(data: object, path: str) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            field = f"{path}.{key}" if path else str(key)
            if isinstance(value, str) and value and _names_credential(str(key)):
                yield field
            yield from _suspects(value, field)
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _suspects(value, f"{path}[{index}]")
    elif isinstance(data, str) and _VALUE.match(data):
        yield path


def _names_credential(key: str) -> bool:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().replace("-", "_")
    return name in _NAMES or name.endswith(_SUFFIXES)
