"""The service that a training client belongs to."""

from typing import Protocol

from backends.tinkex.client.requests.request_context import RequestContext
from backends.tinkex.client.rest.client import RestClient
from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.client.session import Session
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.wire.features import ServerFeatures


class TrainingService(RequestContext, Protocol):
    """The methods of ``ServiceClient`` that a training client and its users call."""

    @property
    def features(self) -> ServerFeatures:
        """The known features of the server."""
        ...

    def attached_session(self, session_id: str | None) -> Session:
        """Return the session with this id, created by another process."""
        ...

    def create_rest_client(self) -> RestClient:
        """Return a client for runs, checkpoints and sessions."""
        ...

    async def new_sampling_client(
        self,
        session: Session,
        weights: CheckpointAddress | None,
        base_model: str | None = None,
        *,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Create a sampling session in ``session``."""
        ...

    async def end_sessions(self) -> None:
        """Stop the heartbeats of this service's sessions."""
        ...
