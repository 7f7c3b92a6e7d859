"""Settings: the one reader of the environment."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.errors import InvalidRequest
from nsai_work.settings import OTHER_VARIABLES, SHIPPED_BACKENDS, Settings, redacted, unknown_variables
from tests.strategies import CONTROL_CHARACTERS


def test_the_defaults_need_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any variable but the home, database and broker are files under it."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path / "somewhere"))

    settings = Settings()

    assert settings.database_url == f"sqlite:///{tmp_path}/somewhere/nsai-work.db"
    assert settings.broker_url == f"spool://localhost{tmp_path}/somewhere/spool"
    assert settings.embedded_broker
    assert not (tmp_path / "somewhere").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LEASE_TTL_S", "soon"),
        ("LEASE_TTL_S", "nan"),
        ("CONCURRENCY", "0"),
        ("POLL_INTERVAL_S", "-1"),
        ("BROKER_URL", "localhost:5672"),
        ("BROKER_URL", "sqs://x"),
        ("DATABASE_URL", "mysql://host/db"),
        ("BLOBS_URL", "/mnt/blobs"),
        ("BLOBS_URL", "memory://blobs"),
        ("BLOBS_URL", "s3://[bucket"),
        ("BLOBS_URL", "s3://name:secret@bucket/folder"),
        ("BLOBS_URL", "https://host/folder?token=secret"),
        ("BLOBS_MAX_MIB", "0"),
        ("BLOBS_CACHE_MIB", "0"),
        ("DATABASE_URL", "nsai.db"),
        ("QUEUE_PREFIX", "../x"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which variable is wrong, so that a user can correct it."""
    monkeypatch.setenv(f"NSAI_WORK_{variable}", value)

    with pytest.raises(InvalidRequest, match=f"NSAI_WORK_{variable}: "):
        Settings()


def test_passwords_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a repr nor an error repeats a URL's password."""
    monkeypatch.setenv("NSAI_WORK_BROKER_URL", "amqp://me:hunter2@host//")
    monkeypatch.setenv("NSAI_WORK_DATABASE_URL", "oracle://me:hunter2@host/x")

    with pytest.raises(InvalidRequest) as caught:
        Settings()
    monkeypatch.delenv("NSAI_WORK_DATABASE_URL")
    settings = Settings()

    assert "hunter2" not in f"{caught.value} {caught.value.details} {settings!r} {settings}"
    assert redacted(settings.broker_url) == "amqp://me:***@host//"


def test_the_driver_of_the_postgres_extra_is_filled_in() -> None:
    """People write postgresql://; what is installed is psycopg 3."""
    assert Settings(database_url="postgresql://h/d").database_url == "postgresql+psycopg://h/d"


def test_a_home_given_in_code_brings_its_own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that passes ``home=tmp_path`` must not write to the team's database."""
    monkeypatch.setenv("NSAI_WORK_DATABASE_URL", "postgresql://team/jobs")
    monkeypatch.setenv("NSAI_WORK_BROKER_URL", "amqp://team//")
    monkeypatch.setenv("NSAI_WORK_CONCURRENCY", "7")

    settings = Settings(home=tmp_path)

    assert settings.database_url == f"sqlite:///{tmp_path / 'nsai-work.db'}"
    assert settings.broker_url == f"spool://localhost{tmp_path / 'spool'}"
    assert settings.concurrency == 7
    assert Settings(home=tmp_path, database_url="sqlite:////x.db").database_url == "sqlite:////x.db"
    assert Settings(home=tmp_path, broker_url="redis://mine").broker_url == "redis://mine"
    assert Settings().database_url == "postgresql+psycopg://team/jobs"


def test_a_home_from_the_environment_leaves_the_database_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a deployment set both."""
    monkeypatch.setenv("NSAI_WORK_DATABASE_URL", "postgresql://team/jobs")
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path))

    assert Settings().home == tmp_path
    assert Settings().database_url == "postgresql+psycopg://team/jobs"


KEY = "tml-0123456789abcdef01"


def test_credentials_are_names_by_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON object; nobody has to give one."""
    assert Settings().credentials == {}

    monkeypatch.setenv("NSAI_WORK_CREDENTIALS", '{"tinkex": "team-a", "openai": "\u00fcbung"}')

    assert Settings().credentials == {"tinkex": "team-a", "openai": "\u00fcbung"}


CREDENTIALS = {
    "no JSON": ("tinkex=team-a", "JSON object"),
    "a list": ('["team-a"]', "JSON object"),
    "JSON without an end": ("[" * 100_000, "JSON object"),
    "number of many digits": ("9" * 5_000, "JSON object"),
    "no text": ('{"tinkex": 1}', "'tinkex': .*string"),
    "empty name": ('{"tinkex": " "}', "'tinkex': must not be empty"),
    "empty backend": ('{"": "team-a"}', "name of a backend must not be empty"),
    "long name": (f'{{"tinkex": "{"x" * 201}"}}', "'tinkex': must not be longer than 200"),
    "NUL": ('{"tinkex": "a\\u0000"}', "'tinkex': .*control"),
    "lone surrogate": ('{"tinkex": "a\\ud800"}', "'tinkex': .*surrogate"),
    "key for a name": (f'{{"tinkex": "{KEY}"}}', "'tinkex': looks like a key"),
    "key for a backend": (f'{{"{KEY}": "team-a"}}', "name of a backend looks like a key"),
    "key for a backend without a name": (f'{{"{KEY}": ""}}', "name of an account must not be empty"),
}


@pytest.mark.parametrize(("value", "complaint"), CREDENTIALS.values(), ids=CREDENTIALS.keys())
def test_credentials_that_are_none(value: str, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable and the backend are named, and what may be a key is never repeated."""
    monkeypatch.setenv("NSAI_WORK_CREDENTIALS", value)

    with pytest.raises(InvalidRequest, match=f"NSAI_WORK_CREDENTIALS: .*{complaint}") as caught:
        Settings()

    assert set(caught.value.details["fields"]) == {"NSAI_WORK_CREDENTIALS"}
    assert KEY not in f"{caught.value} {caught.value.details}"


def can_name_an_account(text: str) -> bool:
    """As the page on settings says."""
    kept = text.encode(errors="replace").decode() == text and not set(text) & set(CONTROL_CHARACTERS)
    return kept and bool(text.strip()) and len(text) <= 200


@given(st.dictionaries(st.text(), st.text() | st.text(max_size=3), max_size=3))
def test_credentials_are_taken_as_they_are_or_refused(names: dict[str, str]) -> None:
    """Nothing is trimmed, cut or dropped."""
    if all(map(can_name_an_account, [*names, *names.values()])):
        assert Settings(credentials=names).credentials == names
    else:
        with pytest.raises(InvalidRequest, match=r"^NSAI_WORK_CREDENTIALS: "):
            Settings(credentials=names)


def test_a_variable_that_nothing_reads_is_named_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of settings, in any case, of the command line and of backends are known."""
    for name in ("nsai_work_log_level", *OTHER_VARIABLES, "OTHER"):
        monkeypatch.setenv(name, "info")
    assert unknown_variables() == {}

    monkeypatch.setenv("NSAI_WORK_CONCURENCY", "3")
    assert list(unknown_variables()) == ["NSAI_WORK_CONCURENCY"]
    assert unknown_variables()["NSAI_WORK_CONCURENCY"].startswith("did you mean NSAI_WORK_CONCURRENCY? known are ")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NSAI_WORK_PYTHON_ALOW", "NSAI_WORK_PYTHON_ALLOW"),
        ("NSAI_WORK_PEFT_MODEL", "NSAI_WORK_PEFT_MODELS"),
        ("NSAI_WORK_DATABASE", "NSAI_WORK_DATABASE_URL"),
    ],
)
def test_a_misspelled_variable_of_a_backend_of_ours_is_named(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that only begins as a backend's is none of its variables."""
    monkeypatch.setenv(name, "x")
    assert unknown_variables()[name].startswith(f"did you mean {meant}? ")


def test_a_variable_of_a_foreign_backend_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else knows the names."""
    names = ("proverbs-plus", "python")
    monkeypatch.setattr("crucible.registry._names", lambda _: names)
    monkeypatch.setenv("NSAI_WORK_PROVERBS_PLUS_FILE", "x")
    assert unknown_variables() == {}


SOURCES = [
    path
    for package in ("nsai_work", "crucible", "backends")
    for path in sorted((Path(__file__).parents[2] / package).rglob("*.py"))
]


def test_every_variable_that_a_source_file_names_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a new one is not called unknown, and an old one that nothing reads any more is."""
    texts = {path: path.read_text() for path in SOURCES}
    named = {name for text in texts.values() for name in re.findall(r"NSAI_WORK_[A-Z0-9_]*[A-Z0-9]", text)}
    assert {"NSAI_WORK_HOME", "NSAI_WORK_PYTHON_ALLOW", "NSAI_WORK_PEFT_MODELS"} <= named
    for name in named:
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == {}

    elsewhere = "".join(text for path, text in texts.items() if path.parts[-2:] != ("nsai_work", "settings.py"))
    assert [name for name in OTHER_VARIABLES if f'"{name}"' not in elsewhere] == []


def test_every_shipped_backend_is_in_the_list() -> None:
    """Its variables are known by name, not by its prefix."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {*SHIPPED_BACKENDS} == {*project["entry-points"]["crucible.backends"]}
