"""The numbers of new jobs: they rise in the order in which jobs come in, and so are taken."""

from functools import lru_cache
from typing import Any

from sqlalchemy import Integer, ScalarSelect, bindparam, func, select

from nsai_work.store.schema import job_numbers, jobs


@lru_cache
def numbers_column(postgres: bool) -> ScalarSelect[Any]:
    """A column for a statement that asks something else, to save a way to the database. Its parameter ``count``
    says how many numbers are wanted; ``numbers_of`` reads it."""
    if not postgres:
        return select(func.max(jobs.c.seq)).scalar_subquery()
    series = func.generate_series(1, bindparam("count", type_=Integer())).table_valued("number")
    # drawn once, however many rows the statement has: it depends on none of them
    drawn = select(job_numbers.next_value().label("number")).select_from(series).subquery()
    return select(func.array_agg(drawn.c.number)).scalar_subquery()


def numbers_of(value: Any, count: int, *, postgres: bool) -> list[int]:
    """The numbers in a row's column."""
    if postgres:
        return sorted(value)
    newest = value or 0
    return list(range(newest + 1, newest + 1 + count))
