"""Rejects credentials in jobs and account names, so that they are never stored, shown or sent."""

import re

from crucible.values.scalars import printable
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
    found = _suspect(data)
    if found is not None:
        field = found.removeprefix(".")
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


def _suspect(data: object) -> str | None:
    """The path of the first field that looks like a credential, from ``data``; None if there is none."""
    # paths are made on the way back only: nearly no job has any to name
    if isinstance(data, str):
        return "" if _VALUE.match(data) else None
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, str) and value and _names_credential(str(key)):
                return f".{key}"
            if (path := _suspect(value)) is not None:
                return f".{key}{path}"
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            if (path := _suspect(value)) is not None:
                return f"[{index}]{path}"
    return None


def _names_credential(key: str) -> bool:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().replace("-", "_")
    return name in _NAMES or name.endswith(_SUFFIXES)
