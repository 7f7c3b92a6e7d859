"""Settings from the environment (prefix ``NSAI_WORK_``), which no other module reads.

The defaults work on a single machine without servers: a SQLite file and a spool directory under
``NSAI_WORK_HOME``.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from crucible.errors import InvalidRequest
from crucible.values.suggestions import known_names
from nsai_work.credentials import account_name
from nsai_work.extras import missing_extra
from nsai_work.files.home import absolute, default_home, make_private_folder

AccountName: TypeAlias = Annotated[str, AfterValidator(account_name)]

PREFIX = "NSAI_WORK_"
CREDENTIALS_FORM = 'must be a JSON object of a name for each backend, as {"tinkex": "team-a"}'
BROKER_SCHEMES = ("amqp", "amqps", "pyamqp", "redis", "rediss", "spool")


class Settings(BaseSettings):
    """The settings of a submitting or working process.

    ``database_url`` and ``broker_url`` may contain a password and are excluded from the repr. ``lease_ttl_s`` is
    how long a worker may miss heartbeats before its jobs are reclaimed, and ``presence_grace_s`` how long its
    session at a PostgreSQL server may be gone before those are that cannot be repeated. ``poll_interval_s`` is how
    often a worker polls for due jobs, and so the latency when wake-ups are lost. ``shutdown_grace_s`` is how long
    running jobs have to reach a point where they can be handed over. ``credentials`` maps backends to the name of
    the account that this process uses there, which limits refer to. It is a name, never a key; the default is the
    backend's name.

    ``blobs_url`` is where the input files of jobs are kept; ``blobs_max_mib`` limits the size of one that is kept
    in the database, and ``blobs_cache_mib`` that of all copies on this machine. ``python_allow`` lists the modules
    and packages, separated by commas, whose environments and functions a job may name.

    ``serve_key`` is the key that clients of ``nsai-work serve`` must send; it is excluded from the repr.
    ``page_token`` lets people who know it change jobs on the page; it is excluded from the repr.

    A ``home`` that is passed to the constructor brings its own database and broker: those of the environment do not
    apply, but others may be passed with it.

    Raises:
        InvalidRequest: a value is invalid; the error names the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True, env_ignore_empty=True
    )

    home: Path = Field(default_factory=default_home)
    database_url: str = Field(default="", repr=False)
    broker_url: str = Field(default="", repr=False)
    queue_prefix: str = Field(default="nsai", pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    blobs_url: str = Field(default="", repr=False)
    blobs_max_mib: int = Field(default=256, ge=1, le=1_000_000)
    blobs_cache_mib: int = Field(default=10_240, ge=1, le=1_000_000_000)
    python_allow: str = Field(default="", max_length=10_000)
    migrate: bool = True
    concurrency: int = Field(default=100, ge=1, le=100_000)
    lease_ttl_s: float = Field(default=15.0, ge=0.5, le=3600, allow_inf_nan=False)
    presence_grace_s: float = Field(default=8.0, ge=4.0, le=3600, allow_inf_nan=False)
    poll_interval_s: float = Field(default=5.0, ge=0.05, le=300, allow_inf_nan=False)
    sweep_interval_s: float = Field(default=1.0, ge=0.05, le=300, allow_inf_nan=False)
    spool_poll_ms: int = Field(default=5, ge=1, le=10_000)
    shutdown_grace_s: float = Field(default=20.0, ge=0, le=3600, allow_inf_nan=False)
    credit_poll_s: float = Field(default=300.0, ge=0.05, le=86_400, allow_inf_nan=False)
    store_timeout_s: float = Field(default=10.0, ge=0.1, le=3600, allow_inf_nan=False)
    submit_timeout_s: float = Field(default=15.0, ge=0.1, le=3600, allow_inf_nan=False)
    credentials: dict[AccountName, AccountName] = Field(default_factory=dict)
    serve_key: str = Field(default="", repr=False)
    notify: str = Field(default="", repr=False)
    page_token: str = Field(default="", repr=False)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    def __init__(self, **values: Any) -> None:
        if "home" in values:
            # the environment's database would otherwise be used in the place of the one in this home
            values = {"database_url": "", "broker_url": "", "blobs_url": "", **values}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _named(error) from None
        except (SettingsError, RecursionError):
            # raised for invalid JSON, which only this variable holds
            raise _refused([f"{PREFIX}CREDENTIALS: {CREDENTIALS_FORM}"]) from None

    @model_validator(mode="before")
    @classmethod
    def _absolute_home(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("home"), str | Path):
            try:
                values = {**values, "home": absolute(values["home"])}
            except ValueError as error:
                raise ValueError(f"HOME: {error}") from None
        return values

    @model_validator(mode="after")
    def _embedded_defaults(self) -> Self:
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{self.home / 'nsai-work.db'}")
        if not self.broker_url:
            object.__setattr__(self, "broker_url", f"spool://localhost{self.home / 'spool'}")
        object.__setattr__(self, "database_url", _checked_database(self.database_url))
        _check_broker(self.broker_url)
        _check_blobs(self.blobs_url)
        return self

    @cached_property
    def embedded_broker(self) -> bool:
        """Wake-ups go through the spool directory instead of a broker."""
        return self.broker_url.startswith("spool:")

    @property
    def allowed_modules(self) -> tuple[str, ...]:
        """The modules of ``python_allow``."""
        return tuple(name.strip() for name in self.python_allow.split(",") if name.strip())

    @property
    def heartbeat_interval_s(self) -> float:
        """A quarter of the lease, so that it survives one or two missed heartbeats."""
        return self.lease_ttl_s / 4

    def make_home(self) -> Path:
        """Create the home directory, accessible to this user only, and return it.

        Raises:
            InvalidRequest: it cannot be created.
        """
        try:
            make_private_folder(self.home)
        except OSError as error:
            raise InvalidRequest.of(
                f"{PREFIX}HOME", str(self.home), f"cannot create it: {error.strerror}"
            ) from error
        return self.home


def sqlite_file(database_url: str) -> Path | None:
    """Return the file of a SQLite database; None for a database on a server."""
    scheme, _, rest = database_url.partition(":///")
    return Path(rest.partition("?")[0]) if scheme.startswith("sqlite") else None


OTHER_VARIABLES: Final = (
    "NSAI_WORK_DEBUG",
    "NSAI_WORK_LITELLM_DEFAULT_MODEL",
    "NSAI_WORK_OPENAI_DEFAULT_MODEL",
    "NSAI_WORK_PEFT_MODELS",
    "NSAI_WORK_PYTHON_ALLOW",
    "NSAI_WORK_PYTHON_ENV",
    "NSAI_WORK_PYTHON_FILES",
)
"""Variables of the prefix that are no settings: of the command line, and of the backends in this package."""

SHIPPED_BACKENDS: Final = ("fake", "litellm", "openai", "peft", "python", "tinkex")
"""The backends in this package, all of whose variables are known."""


def unknown_variables() -> dict[str, str]:
    """Return the variables of our prefix that nothing reads, each with the nearest known name and the list.

    ``NSAI_WORK_<BACKEND>_...`` belongs to the installed backend of that name, if it is another package's.
    """
    known = [*(f"{PREFIX}{name.upper()}" for name in Settings.model_fields), *OTHER_VARIABLES]
    unknown = [name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known]
    if not unknown:
        return {}
    from crucible.registry import installed_backends

    foreign = sorted(set(installed_backends().names()) - {*SHIPPED_BACKENDS})
    own = tuple(f"{PREFIX}{name.upper().replace('-', '_')}_" for name in foreign)
    return {name: known_names(name, known) for name in sorted(unknown) if not name.upper().startswith(own)}


def logs_json() -> bool:
    """Return whether the environment asks for a log in JSON, be its other variables valid or not."""
    return any(name.upper() == f"{PREFIX}LOG_FORMAT" and value == "json" for name, value in os.environ.items())


def redacted(url: str) -> str:
    """Return a URL without its password, for display."""
    head, scheme, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    if not at:
        return url
    user = credentials.partition(":")[0]
    return f"{head}{scheme}{user}:***@{place}" if ":" in credentials else url


def _checked_database(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    dialect = scheme.partition("+")[0]
    if not separator:
        raise ValueError("DATABASE_URL: expected a URL such as sqlite:///PATH or postgresql://HOST/NAME")
    if dialect not in ("sqlite", "postgresql", "postgres"):
        raise ValueError(f"DATABASE_URL: {dialect!r} is not allowed; allowed are sqlite and postgresql")
    if missing := missing_extra(scheme):
        raise ValueError(f"DATABASE_URL: {missing}")
    # the driver of the package's postgres extra
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else url


def _check_broker(url: str) -> None:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in BROKER_SCHEMES:
        shown = scheme if separator else "a value without a scheme"
        raise ValueError(
            f"BROKER_URL: {shown} is not allowed; allowed are {', '.join(BROKER_SCHEMES)} (as amqp://HOST)"
        )
    if missing := missing_extra(scheme):
        raise ValueError(f"BROKER_URL: {missing}")


def _check_blobs(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"BLOBS_URL: is no URL ({error})") from None
    if url and (not parts.scheme or "://" not in url or parts.scheme == "memory"):
        raise ValueError("BLOBS_URL: expected a URL that other machines can read, such as s3://BUCKET/FOLDER")
    if parts.password is not None or parts.query:
        raise ValueError(
            "BLOBS_URL: it is written into the database; leave out password and query, and give the credentials in"
            " the way of its fsspec adapter (for s3, AWS_ACCESS_KEY_ID)"
        )


def _named(error: ValidationError) -> InvalidRequest:
    """Translate a validation error to environment variables. Values of URLs are omitted."""
    return _refused([_complaint(item) for item in error.errors(include_url=False, include_context=False)])


def _refused(complaints: list[str]) -> InvalidRequest:
    return InvalidRequest(
        "\n".join(complaints), details={"fields": [text.partition(":")[0] for text in complaints]}
    )


def _complaint(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return f"{PREFIX}{message}"
    field = str(item["loc"][0])
    name = field if field.startswith(PREFIX) else f"{PREFIX}{field.upper()}"
    if field == "credentials":
        return f"{name}: {_complaint_of_account(item['loc'], message)}"
    shown = "" if field.endswith("url") or item["type"] == "missing" else f" (got {item.get('input')!r:.80})"
    return f"{name}: {message}{shown}"


def _complaint_of_account(place: tuple[int | str, ...], message: str) -> str:
    """Describe an invalid entry. Its value is omitted, and so is its name unless valid: either may be the key
    itself."""
    if len(place) == 1:
        return CREDENTIALS_FORM
    if len(place) > 2:
        return f"the name of a backend {message}"
    try:
        return f"{account_name(str(place[1]))!r:.80}: {message}"
    except ValueError:
        return f"the name of an account {message}"
