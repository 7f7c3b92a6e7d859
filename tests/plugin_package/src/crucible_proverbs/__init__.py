"""A backend that answers every prompt with a proverb."""

from crucible_proverbs.backend import ProverbBackend

__all__ = ["ProverbBackend"]
