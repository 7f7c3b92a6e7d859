"""The metadata of all tables, and the columns and indexes that several of them have."""

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKey, Index, MetaData, text

metadata: Final = MetaData()


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows that meet a condition, in SQL."""
    condition = text(where)
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def job_column(*, primary_key: bool = False) -> Column[int]:
    """The column ``job_seq``: rows are deleted with their job."""
    return Column(
        "job_seq",
        BigInteger,
        ForeignKey("nsai_jobs.seq", ondelete="CASCADE"),
        primary_key=primary_key,
        autoincrement=False,
        nullable=False,
    )
