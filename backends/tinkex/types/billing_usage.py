"""The usage that a service bills."""

from typing import Any

from pydantic import Field

from backends.tinkex.types.wire_record import ReadRecord, Timestamp


class BillingUsage(ReadRecord):
    """Usage by hour: ``data`` has one record per hour and attribution, ``sessions`` their attributes by id.

    Until ``cost_data_through``, costs are those of invoices. Records are as the service wrote them.
    """

    data: list[dict[str, Any]] = Field(default_factory=list)
    sessions: dict[str, dict[str, Any]] = Field(default_factory=dict)
    cost_data_through: Timestamp | None = None
