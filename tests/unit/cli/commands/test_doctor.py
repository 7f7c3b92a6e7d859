"""``nsai-work doctor``: its line about variables that nothing reads."""

from itertools import islice

import pytest

from nsai_work.cli.commands.doctor import CheckStatus, _run_checks


def test_doctor_names_a_variable_that_nothing_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As broken, with the nearest known name, after the line of the settings."""
    meant = {
        "NSAI_WORK_CONCURENCY": "NSAI_WORK_CONCURRENCY",
        "NSAI_WORK_PYTHON_ALOW": "NSAI_WORK_PYTHON_ALLOW",
    }
    for name in (*meant, "NSAI_WORK_PYTHON_ENV"):
        monkeypatch.setenv(name, "3")

    settings, *unknown = islice(_run_checks(), 3)
    assert (settings.subject, settings.status) == ("settings", CheckStatus.OK)
    for check, (name, known) in zip(unknown, meant.items(), strict=True):
        assert (check.subject, check.status) == ("settings", CheckStatus.BROKEN)
        assert check.advice == "correct or unset the variable"
        assert check.detail.startswith(f"nothing reads {name}; did you mean {known}? ")


def test_doctor_says_nothing_about_known_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line about the settings is the only one with that subject."""
    monkeypatch.setenv("NSAI_WORK_LOG_LEVEL", "info")
    monkeypatch.setenv("NSAI_WORK_PEFT_MODELS", "models")

    assert [check.subject for check in islice(_run_checks(), 2)].count("settings") == 1
