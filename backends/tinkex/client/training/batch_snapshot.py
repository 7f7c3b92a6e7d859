"""Batches as they were at the call: what callers do with their arrays afterwards does not change what is sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.datum import Datum
from backends.tinkex.wire.body import Piece
from backends.tinkex.wire.chunks import chunked
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, encoded_datums
from crucible.errors import Unsupported


@dataclass(frozen=True, slots=True)
class BatchSnapshot:
    """A request's share of a batch: encoded where the server is known to accept it, else copied."""

    data: Sequence[Datum]
    encoded: Sequence[Piece] | None = None

    def request(
        self,
        model_id: str,
        seq_id: int,
        loss_fn: str,
        config: Mapping[str, float | str] | None,
        *,
        forward_only: bool,
    ) -> PassRequest:
        """Return the request that sends this share."""
        return PassRequest(model_id, seq_id, self.data, loss_fn, config, forward_only, self.encoded)


def snapshots(connection: Connection, data: Sequence[Datum], config: ClientConfig) -> list[BatchSnapshot]:
    """Split a batch into requests and take a snapshot of each.

    Raises:
        InvalidRequest: a number does not fit its type; the error names the datum.
    """
    taken: list[BatchSnapshot] = []
    begin = 0
    for chunk in chunked(data, config):
        taken.append(_snapshot(connection, chunk, begin))
        begin += len(chunk)
    return taken


def _snapshot(connection: Connection, chunk: Sequence[Datum], begin: int) -> BatchSnapshot:
    if connection.features.request_encoding == "protobuf":
        try:
            # Encoding costs no more than a copy of the arrays, and less than one of lists.
            return BatchSnapshot((), encoded_datums(chunk, begin))
        except Unsupported:
            pass
    return BatchSnapshot([datum.copied() for datum in chunk])
