"""Outcomes of the demo's runs, and their comparison."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A finished run. ``losses`` are those of steps 1, 2, ...; ``weights`` is the server's digest of the final
    weights and optimizer state."""

    job_id: str
    losses: tuple[float, ...]
    weights: str
    model: str
    resume: str
    corrupted_at: int = 0
    resumed_from: int = 0
    recoveries: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A compared property of two runs."""

    equal: bool
    text: str
    note: str = ""


def compare(corrupted: RunOutcome, undisturbed: RunOutcome) -> list[Comparison]:
    """Compare recoveries, losses and weights: exactly one run recovered, and both results are equal."""
    return [
        _recovered(corrupted, undisturbed),
        _losses(corrupted.losses, undisturbed.losses),
        _weights(corrupted.weights, undisturbed.weights),
    ]


def _recovered(corrupted: RunOutcome, undisturbed: RunOutcome) -> Comparison:
    expected = corrupted.recoveries == 1 and undisturbed.recoveries == 0
    note = f"from step {corrupted.resumed_from}; the repeated steps prove the resume {corrupted.resume}"
    return Comparison(expected, f"recoveries: {corrupted.recoveries} and {undisturbed.recoveries}", note)


def _losses(first: tuple[float, ...], second: tuple[float, ...]) -> Comparison:
    differing = [step for step, (a, b) in enumerate(zip(first, second, strict=False), start=1) if a != b]
    if len(first) != len(second):
        return Comparison(False, f"steps: {len(first)} and {len(second)}")
    if differing:
        return Comparison(
            False, f"losses differ at {len(differing)} of {len(first)} steps", f"the first is {differing[0]}"
        )
    return Comparison(bool(first), f"losses: all {len(first)} steps equal, bit for bit")


def _weights(first: str, second: str) -> Comparison:
    if first != second:
        return Comparison(False, "final weights and optimizer state differ", f"{first[:16]}, {second[:16]}")
    return Comparison(bool(first), "final weights and optimizer state equal", f"sha256 {first[:16]}...")
