"""What a run of the demo came to, and whether two of them came to the same."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A finished run. ``losses`` are those of steps 1, 2, ...; ``weights`` is the digest of the final weights and
    optimizer state, as the server computes it."""

    job_id: str
    losses: tuple[float, ...]
    weights: str
    model: str
    resume: str
    corrupted_at: int = 0
    resumed_from: int = 0
    recoveries: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was compared."""

    equal: bool
    text: str
    note: str = ""


def compare(corrupted: RunOutcome, undisturbed: RunOutcome) -> list[Finding]:
    """Everything that must hold: a recovery did happen, and nothing shows of it in the end."""
    return [
        _recovered(corrupted, undisturbed),
        _losses(corrupted.losses, undisturbed.losses),
        _weights(corrupted.weights, undisturbed.weights),
    ]


def _recovered(corrupted: RunOutcome, undisturbed: RunOutcome) -> Finding:
    as_told = corrupted.recoveries == 1 and undisturbed.recoveries == 0
    note = f"from step {corrupted.resumed_from}; the repeated steps show the resume to be {corrupted.resume}"
    return Finding(as_told, f"recoveries: {corrupted.recoveries} and {undisturbed.recoveries}", note)


def _losses(one: tuple[float, ...], other: tuple[float, ...]) -> Finding:
    differing = [step for step, pair in enumerate(zip(one, other, strict=False), start=1) if pair[0] != pair[1]]
    if len(one) != len(other):
        return Finding(False, f"steps: {len(one)} and {len(other)}")
    if differing:
        return Finding(
            False, f"losses differ at {len(differing)} of {len(one)} steps", f"the first is {differing[0]}"
        )
    return Finding(bool(one), f"losses: all {len(one)} steps equal, bit for bit")


def _weights(one: str, other: str) -> Finding:
    if one != other:
        return Finding(False, "final weights and optimizer state differ", f"{one[:16]}, {other[:16]}")
    return Finding(bool(one), "final weights and optimizer state equal", f"sha256 {one[:16]}...")
