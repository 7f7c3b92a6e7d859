"""The text of an error for an unknown name: the nearest known name, and the list of all."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

MAX_NAME_LENGTH: Final = 100
"""Longer names get no suggestion: the comparison takes time quadratic in the length."""

MAX_LISTED: Final = 40

_CUTOFF: Final = 0.6


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name most similar to ``name``, ignoring case and hyphens; None if none is similar."""
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
        return None
    by_form: dict[str, str] = {}
    for candidate in known:
        by_form.setdefault(_form(candidate), candidate)
    found = get_close_matches(_form(name), by_form, n=1, cutoff=_CUTOFF)
    return by_form[found[0]] if found else None


def known_names(name: object, known: Iterable[str], *, are: str = "known are") -> str:
    """Return the help for an unknown name: ``did you mean loss? known are loss, tokens``.

    The list names at most ``MAX_LISTED``. ``are`` introduces it.
    """
    names = list(dict.fromkeys(known))
    more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    listed = f"{are} {', '.join(names[:MAX_LISTED]) or 'none'}{more}"
    suggestion = nearest(name, names)
    return f"did you mean {suggestion}? {listed}" if suggestion is not None else listed


def _form(name: str) -> str:
    return name.casefold().replace("-", "_").strip()
