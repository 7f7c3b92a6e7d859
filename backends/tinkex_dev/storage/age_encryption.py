"""Encryption of files to public keys of age (X25519), with the package ``pyrage`` where it is installed."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

SUFFIX: Final = ".age"


class CannotEncrypt(Exception):
    """Files cannot be encrypted to these keys; the message says why."""


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise CannotEncrypt unless each recipient is a public key of age and ``pyrage`` is installed."""
    _keys(recipients)


def encrypted(files: Mapping[str, bytes], recipients: Sequence[str]) -> dict[str, bytes]:
    """Encrypt each file to all recipients, each under its name with the suffix ``.age``.

    Raises:
        CannotEncrypt: a recipient is no public key of age, or ``pyrage`` is not installed.
    """
    keys = _keys(recipients)
    pyrage = _library()
    return {name + SUFFIX: bytes(pyrage.encrypt(data, keys)) for name, data in files.items()}


def _keys(recipients: Sequence[str]) -> list[Any]:
    pyrage = _library()
    found = []
    for place, text in enumerate(recipients):
        try:
            found.append(pyrage.x25519.Recipient.from_str(text))
        except pyrage.RecipientError:
            raise CannotEncrypt(f"the key at place {place} is not a public key of age: age1...") from None
    return found


def _library() -> Any:
    try:
        return importlib.import_module("pyrage")
    except ImportError:
        raise CannotEncrypt(
            "the development server encrypts with the package pyrage, which is not installed"
        ) from None
