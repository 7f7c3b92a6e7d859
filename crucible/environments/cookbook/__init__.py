"""Environments of the tinker-cookbook: groups that its builders make, which work on tokens."""

from crucible.environments.cookbook.environment import CookbookEnvironment

__all__ = ["CookbookEnvironment"]
