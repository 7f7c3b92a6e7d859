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
