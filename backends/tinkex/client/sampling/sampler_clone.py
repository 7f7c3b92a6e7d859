"""Numbers of the clients that share a sampling session: each has a block of sequence numbers."""

import secrets
from typing import Final

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.errors import Resource
from backends.tinkex.types.responses import JoinSamplingSessionResponse

CLONE_BLOCK: Final = 1_000_000_000
"""The sequence numbers of one client; the first client of a session has those from 0."""


async def new_clone_id(connection: Connection, sampling_session_id: str) -> int:
    """Return a number from 1 that no other client of the session has: the server's own, where it assigns them.

    Elsewhere it is random, as that of the official client is. Raises CrucibleError.
    """
    if not (await connection.client_config()).sample_join_sampling_session:
        return secrets.randbelow(CLONE_BLOCK) + 1
    body = {"sampling_session_id": sampling_session_id, "type": "join_sampling_session"}
    joined = await connection.post(
        "join_sampling_session", body, JoinSamplingSessionResponse, resource=Resource.CHECKPOINT
    )
    return joined.client_counter
