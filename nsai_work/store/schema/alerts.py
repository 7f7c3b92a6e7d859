"""Tables of the alerts that targets were sent."""

from typing import Final

from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, String, Table

from nsai_work.store.schema.metadata import metadata

alert_marks: Final = Table(
    "nsai_alert_marks",
    metadata,
    Column("target", String(100), primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

alerts_sent: Final = Table(
    "nsai_alerts_sent",
    metadata,
    Column("target", String(100), nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("target", "event_seq"),
)
