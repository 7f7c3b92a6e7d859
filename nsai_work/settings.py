"""Settings: the only reader of the environment (prefix ``NSAI_WORK_``).

Everything has a default that works on one machine without any server: a SQLite file and a spool directory under
``NSAI_WORK_HOME``.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from crucible.errors import InvalidRequest
from nsai_work.credentials import account_name
from nsai_work.home import absolute, default_home

AccountName: TypeAlias = Annotated[str, AfterValidator(account_name)]

PREFIX = "NSAI_WORK_"
CREDENTIALS_FORM = 'must be a JSON object of a name for each backend, as {"tinkex": "team-a"}'
BROKER_SCHEMES = ("amqp", "amqps", "pyamqp", "redis", "rediss", "spool")


class Settings(BaseSettings):
    """What a process that submits or works is told from outside.

    ``database_url`` and ``broker_url`` may hold a password; they never appear in a repr. ``lease_ttl_s`` is how
    long a worker may be silent before another takes its jobs over. ``poll_interval_s`` is how often a worker looks
    for due jobs by itself, so it is the most a deaf broker can cost. ``shutdown_grace_s`` is how long running jobs
    get to reach a border where they can be handed over. ``credentials`` names, by backend, the account that this
    process uses there: limits are kept by that name. It is a name, never a key; a backend that is not among them
    goes by its own name.

    Raises:
        InvalidRequest: a value is not allowed; the error names the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True, env_ignore_empty=True
    )

    home: Path = Field(default_factory=default_home)
    database_url: str = Field(default="", repr=False)
    broker_url: str = Field(default="", repr=False)
    queue_prefix: str = Field(default="nsai", pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    migrate: bool = True
    concurrency: int = Field(default=100, ge=1, le=100_000)
    lease_ttl_s: float = Field(default=15.0, ge=0.5, le=3600, allow_inf_nan=False)
    poll_interval_s: float = Field(default=5.0, ge=0.05, le=300, allow_inf_nan=False)
    sweep_interval_s: float = Field(default=1.0, ge=0.05, le=300, allow_inf_nan=False)
    spool_poll_ms: int = Field(default=5, ge=1, le=10_000)
    shutdown_grace_s: float = Field(default=20.0, ge=0, le=3600, allow_inf_nan=False)
    credit_poll_s: float = Field(default=300.0, ge=0.05, le=86_400, allow_inf_nan=False)
    store_timeout_s: float = Field(default=10.0, ge=0.1, le=3600, allow_inf_nan=False)
    submit_timeout_s: float = Field(default=15.0, ge=0.1, le=3600, allow_inf_nan=False)
    credentials: dict[AccountName, AccountName] = Field(default_factory=dict)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _named(error) from None
        except (SettingsError, RecursionError):
            # raised for a variable that is no JSON, which only this one has to be
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
        return self

    @cached_property
    def embedded_broker(self) -> bool:
        """Whether wake-ups go through the spool directory, so no broker runs."""
        return self.broker_url.startswith("spool:")

    @property
    def heartbeat_interval_s(self) -> float:
        """Four beats fit into a lease, so one or two may fail."""
        return self.lease_ttl_s / 4

    def make_home(self) -> Path:
        """Create the home directory (for this user alone) and return it.

        Raises:
            InvalidRequest: it cannot be created.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InvalidRequest.of(
                f"{PREFIX}HOME", str(self.home), f"cannot create it: {error.strerror}"
            ) from error
        return self.home


def redacted(url: str) -> str:
    """A URL as it may be shown: without its password."""
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
    # the driver that the package's postgres extra brings
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else url


def _check_broker(url: str) -> None:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in BROKER_SCHEMES:
        shown = scheme if separator else "a value without a scheme"
        raise ValueError(
            f"BROKER_URL: {shown} is not allowed; allowed are {', '.join(BROKER_SCHEMES)} (as amqp://HOST)"
        )


def _named(error: ValidationError) -> InvalidRequest:
    """The complaint in terms of the variables a user set; values of URLs are not repeated."""
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
    """The complaint about one entry. Neither its value is repeated nor its name, unless that is in order: a person
    may have put the key itself there."""
    if len(place) == 1:
        return CREDENTIALS_FORM
    if len(place) > 2:
        return f"the name of a backend {message}"
    try:
        return f"{account_name(str(place[1]))!r:.80}: {message}"
    except ValueError:
        return f"the name of an account {message}"
