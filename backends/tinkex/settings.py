"""The service's address and API key: the only module of this package that reads the environment."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from backends.tinkex.errors import invalid
from crucible.errors import CredentialMissing, InvalidRequest
from crucible.http.redaction import remember_secret

DEFAULT_BASE_URL: Final = "https://tinker.thinkingmachines.dev/services/tinker-prod"
API_KEY_NAME: Final = "TINKER_API_KEY"
BASE_URL_NAME: Final = "TINKER_BASE_URL"
PROJECT_ID_NAME: Final = "TINKER_PROJECT_ID"
_LOCAL_KEY: Final = "tml-local"


class TinkexSettings(BaseSettings):
    """The environment variables of the Tinker SDK: ``TINKER_API_KEY``, hidden in reprs, ``TINKER_BASE_URL``,
    ``TINKER_PROJECT_ID``, and ``TINKER_TAGS``, separated by commas."""

    model_config = SettingsConfigDict(env_prefix="TINKER_", extra="ignore", frozen=True)

    api_key: SecretStr | None = None
    base_url: str | None = None
    project_id: str | None = None
    tags: str | None = None


class Endpoint:
    """A validated address and its API key. ``repr`` shows the address only."""

    __slots__ = ("_api_key", "base_url")

    def __init__(self, base_url: str, api_key: SecretStr | None) -> None:
        self.base_url = base_url
        self._api_key = api_key
        if api_key is not None:
            remember_secret(api_key.get_secret_value())

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"

    @property
    def is_local(self) -> bool:
        """The server is on this machine, and so needs no key."""
        return _is_loopback(urlsplit(self.base_url).hostname or "")

    def headers(self) -> dict[str, str]:
        """Return the authentication headers. Local servers accept any key, but require one."""
        key = _LOCAL_KEY if self._api_key is None else self._api_key.get_secret_value()
        return {"X-API-Key": key}


def resolve_endpoint(api_key: str | SecretStr | None = None, base_url: str | None = None) -> Endpoint:
    """Resolve the endpoint: the arguments, else the environment, else a local development server, else Tinker.

    Raises:
        InvalidRequest: the address has no scheme or host, or the key cannot be sent.
        CredentialMissing: a key is required.
    """
    settings = TinkexSettings()
    key = SecretStr(api_key) if isinstance(api_key, str) else api_key
    key = key or settings.api_key
    if key is not None and not key.get_secret_value().strip():
        key = None
    address = base_url or settings.base_url
    field = "base_url" if base_url else BASE_URL_NAME
    if not address:
        address = (None if key else _running_dev_server()) or DEFAULT_BASE_URL
    endpoint = Endpoint(_validated(address, field), key)
    if key is None and not endpoint.is_local:
        raise CredentialMissing(
            f"{API_KEY_NAME}: no API key for {endpoint.base_url}; set {API_KEY_NAME}, pass api_key=..., "
            f"or start a development server (nsai-work dev-server) or point {BASE_URL_NAME} at one",
            backend="tinkex",
            details={"field": API_KEY_NAME},
        )
    if key is not None and not _is_header_safe(key.get_secret_value()):
        raise InvalidRequest(
            f"{API_KEY_NAME}: the key contains characters that cannot be sent in a header; copy it again",
            backend="tinkex",
            details={"field": API_KEY_NAME},
        )
    return endpoint


def _validated(address: str, field: str) -> str:
    allowed = "give scheme and host, as in http://127.0.0.1:8000 or https://host/path"
    try:
        parts = urlsplit(address.strip())
        port = parts.port
    except ValueError:
        raise invalid(field, address, allowed) from None
    if parts.username or parts.password:
        raise InvalidRequest(
            f"{field}: a user or password inside the address is not allowed; use {API_KEY_NAME}",
            backend="tinkex",
            details={"field": field},
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise invalid(field, address, allowed)
    return address.strip().rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_header_safe(key: str) -> bool:
    return key.isascii() and key.isprintable()


def _running_dev_server() -> str | None:
    try:
        from backends.tinkex.discovery import running_dev_server
    except ImportError:
        return None
    return running_dev_server()
