"""The records of the Tinker SDK."""

from backends.tinkex.compat.types import *  # noqa: F403  # every record of the SDK
