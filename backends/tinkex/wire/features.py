"""Known features of a server."""

from dataclasses import dataclass
from typing import Literal

from crucible.values.record import Record

Encoding = Literal["protobuf", "json"]


class ServerFeatures(Record):
    """The features of a server. None means unknown.

    ``replays_seq_id``: a repeated sequence number is answered from the record instead of running again.
    ``orders_seq_id``: requests of a run take effect by number, in whatever order they arrive.
    ``corrupted_flag``: the server writes ``corrupted`` into its training runs. A server that writes False might
    never write True, so corruption is also detected by errors and by values.
    """

    server: str
    request_encoding: Encoding | None = None
    answer_encoding: Encoding | None = None
    compression: bool | None = None
    replays_seq_id: bool | None = None
    orders_seq_id: bool | None = None
    durable_checkpoints: bool | None = None
    corrupted_flag: bool | None = None
    ttl: bool | None = None
    overwrite: bool | None = None
    billing: bool | None = None
    streaming: bool | None = None
    sessions: bool | None = None
    user_checkpoints: bool | None = None
    training_runs: bool | None = None
    archive: bool | None = None
    publish: bool | None = None
    state_route: bool | None = None
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class FeatureMemory:
    """The features learned about one server, shared by all clients of one service client.

    ``asked_order``: ``orders_seq_id`` has been asked, whether or not that led to an answer.
    """

    features: ServerFeatures
    asked_order: bool = False

    def learn(self, **facts: object) -> None:
        """Set features by name, replacing earlier values. Raises pydantic.ValidationError for an invalid value."""
        self.features = ServerFeatures.model_validate({**self.features.model_dump(), **facts})

    @classmethod
    def of(cls, server: str) -> "FeatureMemory":
        """Return a memory without known features."""
        return cls(ServerFeatures(server=server))
