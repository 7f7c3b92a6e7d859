"""``nsai-work demo``: a run is corrupted half-way, recovers, and equals one that was left alone.

The one place outside ``nsai_work`` that uses the whole product; it does so through the names that users type.
"""

from backends.tinkex_dev.demo.command import demo

__all__ = ["demo"]
