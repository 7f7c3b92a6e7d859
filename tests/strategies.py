"""Hypothesis strategies for the plain models."""

from hypothesis import strategies as st

from nsai_work.policies import BackoffType, RetryPolicy

retry_policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 10_000),
    backoff_type=st.sampled_from(BackoffType),
    initial_delay_ms=st.integers(0, 86_400_000),
    max_delay_ms=st.integers(0, 7 * 86_400_000),
    jitter=st.booleans(),
)
"""Any retry policy."""

CONTROL_CHARACTERS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]))
CONTROL_CHARACTERS += "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))


def names(min_size: int = 1, max_size: int = 20) -> st.SearchStrategy[str]:
    """Names and ids: text without control characters and lone surrogates."""
    allowed = st.characters(exclude_categories=["Cs"], exclude_characters=CONTROL_CHARACTERS)
    return st.text(allowed, min_size=min_size, max_size=max_size)
