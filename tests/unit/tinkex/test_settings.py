"""Where the service is and with which key."""

import json
import os
from pathlib import Path

import pytest

from backends.tinkex.settings import DEFAULT_BASE_URL, TinkexSettings, resolve_endpoint
from crucible.errors import CredentialMissing, InvalidRequest

SECRET = "tml-very-secret"


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is passed wins."""
    monkeypatch.setenv("TINKER_BASE_URL", "https://a.example")
    monkeypatch.setenv("TINKER_API_KEY", "tml-env")

    assert resolve_endpoint(base_url="http://127.0.0.1:1/").base_url == "http://127.0.0.1:1"
    assert resolve_endpoint().base_url == "https://a.example"
    assert resolve_endpoint(api_key=SECRET).headers() == {"X-API-Key": SECRET}


def test_a_key_without_an_address_means_the_service() -> None:
    """The official service is the default."""
    assert resolve_endpoint(api_key=SECRET).base_url == DEFAULT_BASE_URL


def test_with_neither_a_running_development_server_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by the file that it leaves; it needs no key."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path))
    (tmp_path / "dev-server.json").write_text(json.dumps({"url": "http://127.0.0.1:5", "pid": os.getpid()}))

    assert resolve_endpoint().base_url == "http://127.0.0.1:5"


def test_a_key_is_needed_away_from_this_machine() -> None:
    """The error names the variable and the ways out."""
    with pytest.raises(CredentialMissing, match="TINKER_API_KEY") as caught:
        resolve_endpoint(base_url="https://a.example")

    assert caught.value.details["field"] == "TINKER_API_KEY"


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_key_is_none(blank: str) -> None:
    """An empty variable is no credential."""
    with pytest.raises(CredentialMissing):
        resolve_endpoint(api_key=blank, base_url="https://a.example")


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.9", "http://[::1]:80"])
def test_no_key_is_needed_on_this_machine(url: str) -> None:
    """Loopback is loopback by any name."""
    assert resolve_endpoint(base_url=url).is_local


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:80",
        "localhost",
        "ftp://a",
        "http://",
        "https:///path",
        "http://a:99999",
        "http://a:x",
        "http://a:0",
        "http://a?b=c",
        "http://a#b",
        "http://[::1",
    ],
)
def test_an_address_without_scheme_or_host_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the field as the user gave it."""
    with pytest.raises(InvalidRequest) as caught:
        resolve_endpoint(api_key=SECRET, base_url=url)
    assert caught.value.details["field"] == "base_url"

    monkeypatch.setenv("TINKER_BASE_URL", url)
    with pytest.raises(InvalidRequest) as caught:
        resolve_endpoint(api_key=SECRET)
    assert caught.value.details["field"] == "TINKER_BASE_URL"


@pytest.mark.parametrize(
    ("key", "url"),
    [
        (SECRET + "\n", "https://a.example"),
        (SECRET + "é", "https://a.example"),
        (None, f"https://u:{SECRET}@a.example"),
    ],
)
def test_a_key_is_never_shown(key: str | None, url: str) -> None:
    """Not in an error about the key itself, either."""
    with pytest.raises(InvalidRequest) as caught:
        resolve_endpoint(api_key=key, base_url=url)

    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.failure())


def test_a_key_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, endpoint and clients may be printed."""
    from backends.tinkex import ServiceClient

    monkeypatch.setenv("TINKER_API_KEY", SECRET)
    service = ServiceClient()

    for thing in (TinkexSettings(), resolve_endpoint(), service, service.connection, service.connection.transport):
        assert SECRET not in repr(thing)
