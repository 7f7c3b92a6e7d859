"""The command ``nsai-work demo``: a run is corrupted half-way, recovers, and equals an undisturbed one.

The only code outside ``nsai_work`` that uses the whole product; it does so through the public names.
"""

from backends.tinkex_dev.demo.command import demo

__all__ = ["demo"]
