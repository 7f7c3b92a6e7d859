"""``nsai-work limits``: limits on concurrent jobs per tenant or credential, across all workers."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.errors import InvalidRequest
from crucible.rendering.plain_text import plain_line
from nsai_work.cli.output.stdout import write_json, write_line, write_table
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import get_store, load_settings, missing_store
from nsai_work.presentation.json_forms import ALL_MODELS, limit_json, limit_labels

if TYPE_CHECKING:
    from nsai_work.store import Limit, LimitUse

NO_LIMIT = "none"

# passes -1 to the command, which rejects it as a number instead of as an unknown option
TAKES_NEGATIVES = {"ignore_unknown_options": True}

Maximum = Annotated[
    str, typer.Argument(metavar="MAX|none", help="Maximum number of concurrent jobs; none removes the limit.")
]

limits_app = typer.Typer(
    help="Limit concurrent jobs per tenant or credential, across all workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@limits_app.command("list")
def list_limits(json_output: JsonFlag = False) -> None:
    """List the limits, each with the number of running jobs that count against it."""
    settings = load_settings()
    uses = [] if missing_store(settings) else get_store(settings).limits_in_use()
    if json_output:
        write_json([limit_json(use) for use in uses])
        return
    rows = [(*limit_labels(use.limit), use.limit.max_running, use.running) for use in uses]
    write_table(("SCOPE", "NAME", "MODEL", "MAX", "RUNNING"), rows, if_empty="no limits are set")


@limits_app.command("tenant", context_settings=TAKES_NEGATIVES)
def limit_tenant(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Tenant: the tenant_id of its jobs.")],
    maximum: Maximum,
    json_output: JsonFlag = False,
) -> None:
    """Set or remove the limit on concurrent jobs of a tenant."""
    _write_use(get_store().set_tenant_quota(tenant, parse_maximum(maximum)), json_output)


@limits_app.command("credential", context_settings=TAKES_NEGATIVES)
def limit_credential(
    credential: Annotated[
        str,
        typer.Argument(
            metavar="CREDENTIAL",
            help="Account, as named in NSAI_WORK_CREDENTIALS of the workers; else the name of the backend.",
        ),
    ],
    maximum: Maximum,
    model: Annotated[
        str, typer.Option(help="Only jobs that use this model; all models together if omitted.")
    ] = ALL_MODELS,
    json_output: JsonFlag = False,
) -> None:
    """Set or remove the limit on concurrent jobs that use a credential, for a model or for all models together."""
    _write_use(get_store().set_model_limit(credential, parse_maximum(maximum), model=model), json_output)


def parse_maximum(text: str) -> int | None:
    """Parse the maximum of a limit; ``none`` is None.

    Raises:
        InvalidRequest: it is neither ``none`` nor a number within the bounds of a limit.
    """
    from nsai_work.store.claim.limits import MAX_RUNNING

    if text == NO_LIMIT:
        return None
    # int() would also accept 1_000, digits of other scripts, and spaces
    if not re.fullmatch("[0-9]{1,7}", text) or int(text) > MAX_RUNNING:
        raise InvalidRequest.of("MAX", text, f"give a whole number from 0 to {MAX_RUNNING}, or {NO_LIMIT}")
    return int(text)


def _write_use(use: "LimitUse", json_output: bool) -> None:
    if json_output:
        write_json(limit_json(use))
        return
    scope, key, _ = limit_labels(use.limit)
    write_line(plain_line(f"{scope} {key}: {_limit_text(use.limit)}; {_running_text(use)}"))


def _limit_text(limit: "Limit") -> str:
    if limit.scope == "tenant":
        models = ""
    else:
        models = " for all models" if limit.model == ALL_MODELS else f" for model {limit.model}"
    if limit.max_running is None:
        return f"no limit{models}"
    return f"at most {limit.max_running} concurrent job{'' if limit.max_running == 1 else 's'}{models}"


def _running_text(use: "LimitUse") -> str:
    is_over = use.limit.max_running is not None and use.running > use.limit.max_running
    return f"{use.running} running now{', and none is stopped' if is_over else ''}"
