"""``nsai-work limits``: how many jobs may run at once, for a tenant or with a credential, over all workers."""

import re
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from crucible.errors import InvalidRequest
from nsai_work.cli.output import write_json, write_table
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.plain_text import plain_line
from nsai_work.cli.store_access import the_store

if TYPE_CHECKING:
    from nsai_work.store import Limit, LimitUse

NO_LIMIT = "none"
ALL_MODELS = "*"
SCOPES = {"tenant": "tenant", "model": "credential"}
"""What the store's scopes are called here: a limit on a credential need not name a model."""

# so that -1 reaches us and is refused as a number, not as an option that nobody knows
TAKES_NEGATIVES = {"ignore_unknown_options": True}

Most = Annotated[
    str, typer.Argument(metavar="MAX|none", help="At most so many jobs at once; none lifts the limit.")
]

limits_app = typer.Typer(
    help="Limits that all workers share.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@limits_app.callback()
def _limits() -> None:
    """Limits that all workers share."""


@limits_app.command("list")
def list_limits(json_output: JsonFlag = False) -> None:
    """List the limits that are set, each with how many jobs run under it now."""
    used = the_store().limits_in_use()
    if json_output:
        write_json([_as_data(one) for one in used])
        return
    rows = [(*_who(one.limit), one.limit.max_running, one.running) for one in used]
    write_table(("SCOPE", "NAME", "MODEL", "MAX", "RUNNING"), rows, nothing="no limits are set")


@limits_app.command("tenant", context_settings=TAKES_NEGATIVES)
def limit_tenant(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="A tenant, as tenant_id of its jobs names it.")],
    most: Most,
    json_output: JsonFlag = False,
) -> None:
    """Set or lift a tenant's quota: how many of its jobs run at once."""
    _tell(the_store().set_tenant_quota(tenant, read_most(most)), json_output)


@limits_app.command("credential", context_settings=TAKES_NEGATIVES)
def limit_credential(
    credential: Annotated[
        str,
        typer.Argument(
            metavar="CREDENTIAL", help="An account, as NSAI_WORK_CREDENTIALS of the workers names it, or a backend."
        ),
    ],
    most: Most,
    model: Annotated[str, typer.Option(help="Only on this model; on all together when left out.")] = ALL_MODELS,
    json_output: JsonFlag = False,
) -> None:
    """Set or lift a credential's limit: how many jobs run with it at once, on one model or on all together."""
    _tell(the_store().set_model_limit(credential, read_most(most), model=model), json_output)


def read_most(text: str) -> int | None:
    """The limit that an argument means; None for no limit.

    Raises:
        InvalidRequest: it is neither a number that a limit can be, nor ``none``.
    """
    from nsai_work.store.claim.limits import MAX_RUNNING

    if text == NO_LIMIT:
        return None
    # int() would also take 1_000, other scripts' digits and spaces
    if not re.fullmatch("[0-9]{1,7}", text) or int(text) > MAX_RUNNING:
        raise InvalidRequest.of("MAX", text, f"give a whole number from 0 to {MAX_RUNNING}, or {NO_LIMIT}")
    return int(text)


def _who(limit: "Limit") -> tuple[str, str, str | None]:
    """Scope, name and model as people read them; a tenant's quota knows no models."""
    model = None if limit.scope == "tenant" else "all" if limit.model == ALL_MODELS else limit.model
    return SCOPES[limit.scope], limit.key, model


def _tell(used: "LimitUse", json_output: bool) -> None:
    if json_output:
        write_json(_as_data(used))
        return
    scope, key, model = _who(used.limit)
    on = "" if model is None else " on all models" if used.limit.model == ALL_MODELS else f" on model {model}"
    most = used.limit.max_running
    now = "no limit" if most is None else f"at most {_jobs(most)} at once"
    beyond = ", and none is stopped" if most is not None and used.running > most else ""
    runs = "runs" if used.running == 1 else "run"
    typer.echo(plain_line(f"{scope} {key}: {now}{on} from now on; {_jobs(used.running)} {runs} now{beyond}"))


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _as_data(used: "LimitUse") -> dict[str, JsonValue]:
    limit = used.limit
    return {
        "scope": SCOPES[limit.scope],
        "key": limit.key,
        "model": limit.model,
        "max_running": limit.max_running,
        "running": used.running,
    }
