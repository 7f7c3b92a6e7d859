"""What is known of a server, found out without harm and remembered."""

from dataclasses import dataclass, field
from typing import Literal

from crucible.record import Record

Encoding = Literal["protobuf", "json"]


class ServerFeatures(Record):
    """What a server has. ``None`` means not known yet.

    ``replays_seq_id``: a repeated sequence number is answered from the record, not run again.
    ``optimizer_restore``: None until repeated steps have shown it (``ServiceClient.confirm_optimizer_restore``).
    ``corrupted_flag``: the server writes ``corrupted`` into its training runs. Writing False is no proof that it
    would ever write True, so detection by error and by value goes on either way.
    """

    server: str
    request_encoding: Encoding | None = None
    answer_encoding: Encoding | None = None
    compression: bool | None = None
    replays_seq_id: bool | None = None
    durable_checkpoints: bool | None = None
    optimizer_restore: bool | None = None
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
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class FeatureMemory:
    """Learned features of one server, shared by all clients that talk to it through one service client."""

    features: ServerFeatures
    refused: set[str] = field(default_factory=set)
    """Optional fields that the server refused (``route.field``), and are not sent again."""

    def learn(self, **facts: object) -> None:
        """Add facts; later ones win. Raises pydantic.ValidationError for a fact that is none."""
        self.features = ServerFeatures.model_validate({**self.features.model_dump(), **facts})

    @classmethod
    def of(cls, server: str) -> "FeatureMemory":
        """Nothing known yet."""
        return cls(ServerFeatures(server=server))
