"""The errors of the Tinker SDK."""

from backends.tinkex.compat.errors import *  # noqa: F403  # every error of the SDK
