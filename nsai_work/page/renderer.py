"""The templates of the page. Every text in them is escaped, for HTML and for what reorders or hides letters."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crucible.rendering.plain_text import plain_text
from nsai_work.page.assets import CURVE_SCRIPTS, ICON, LIVE_SCRIPT, PAGE_SCRIPT, STYLES, asset_url
from nsai_work.presentation.quantities import ago, count_text, duration_text
from nsai_work.version import __version__

NOTHING: Final = "\N{EN DASH}"


@cache
def environment() -> Environment:
    """The environment of all templates."""
    made = Environment(
        loader=PackageLoader("nsai_work.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    made.filters.update(
        number=number,
        duration=duration_text,
        clock=clock_time,
        day=day,
        short=short_id,
        count=count_text,
    )
    made.globals.update(
        asset_url=asset_url,
        page_script=PAGE_SCRIPT,
        live_script=LIVE_SCRIPT,
        curve_scripts=CURVE_SCRIPTS,
        styles=STYLES,
        icon=ICON,
        version=__version__,
        ago=lambda moment: ago(moment, datetime.now(UTC)),
    )
    return made


def render(template: str, values: Mapping[str, Any]) -> str:
    """Render a template."""
    return environment().get_template(template).render(values)


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits, thousands apart; a dash for None."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    if "e" in text or not 1e-3 <= abs(value) < 1000:
        return text
    # digits that come and go at the end make a column jump
    whole = len(str(int(abs(value))).lstrip("0"))
    return f"{value:.{max(digits - whole, 0)}f}"


def clock_time(moment: datetime | None) -> Markup | str:
    """The local time of day, with the date unless it is today, in a ``time`` element."""
    if moment is None:
        return NOTHING
    try:
        local = moment.astimezone()
    except OverflowError:  # the end of the calendar, in this time zone
        local = moment
    today = datetime.now(local.tzinfo).date() == local.date()
    shown = f"{local:%H:%M:%S}" if today else f"{local:%m-%d %H:%M}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), f"{local:%Y-%m-%d %H:%M:%S %z}", shown
    )


def day(moment: datetime | None) -> Markup | str:
    """The age of a moment, in a ``time`` element with the moment itself."""
    if moment is None:
        return NOTHING
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), f"{moment:%Y-%m-%d %H:%M:%S} UTC", ago(moment, datetime.now(UTC))
    )


def short_id(text: str) -> str:
    """The end of an id, which differs where the begin is a time."""
    return text if len(text) <= 12 else text[-8:]


def compact_json(value: object) -> str:
    """JSON on one line, as a server-sent event needs it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> object:
    return plain_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
