"""Claiming jobs. ``claim`` is the door: it tries the single statement, and falls back to the general path.

``claim_within`` is the general path in an open transaction, for a claim that shares a group commit.
"""

from nsai_work.store.claim import general, one_statement
from nsai_work.store.engine.listener import ListeningConnection
from nsai_work.store.records import Claim, ClaimRequest

claim_within = general.claim


def claim(connection: ListeningConnection, request: ClaimRequest) -> list[Claim]:
    """Claim up to ``request.limit`` ready jobs in a transaction of its own. Raises driver errors unchanged."""
    if connection.database.postgres:
        with connection.transaction(autocommit=True) as tx:
            claims = one_statement.claim(tx, request)
        if claims is not None:
            return claims
    with connection.transaction() as tx:
        return claim_within(tx, request)
