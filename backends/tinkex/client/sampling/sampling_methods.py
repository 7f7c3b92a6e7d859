"""The methods of a service client that create sampling clients."""

from abc import abstractmethod

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.queue_reporter import QueueObserver
from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.client.session import Session
from backends.tinkex.errors import Resource, invalid
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.requests import CreateSamplingSessionRequest
from backends.tinkex.types.responses import CreateSamplingSessionResponse


class SamplingMethods:
    """Creation of sampling clients: the base class of ``ServiceClient``, which provides the sessions."""

    connection: Connection
    runner: Runner
    observer: QueueObserver | None
    no_progress_s: float
    _session: Session

    @abstractmethod
    def attached_session(self, session_id: str | None) -> Session:
        """Return a session that another process created."""

    def create_sampling_client(
        self,
        model_path: str | CheckpointAddress | None = None,
        base_model: str | None = None,
        *,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Return a client for saved weights or a base model. Blocks; in an event loop use the twin."""
        return self.runner.wait(
            self.create_sampling_client_async(model_path, base_model, record_stability_info=record_stability_info)
        )

    async def create_sampling_client_async(
        self,
        model_path: str | CheckpointAddress | None = None,
        base_model: str | None = None,
        *,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """As ``create_sampling_client``. ``model_path`` is sampled from; a ``base_model`` beside it is sent too.

        ``record_stability_info``: the service records its samples for training with ``stable_reinforce``.

        Raises:
            InvalidRequest: neither is given, the path is invalid, the model is unknown, or not that of the weights.
            NotFound: there are no such weights.
        """
        if model_path is None and base_model is None:
            raise invalid("model_path, base_model", (model_path, base_model), "give one of them, or both")
        weights = None if model_path is None else CheckpointAddress.parse(model_path, field="model_path")
        return await self.runner.start(
            self.new_sampling_client(
                self._session, weights, base_model, record_stability_info=record_stability_info
            )
        )

    def attach_sampling_client(
        self,
        sampling_session_id: str,
        first_seq_id: int = 0,
        *,
        session_id: str | None = None,
        base_model: str | None = None,
        model_path: str | None = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Return a client of a sampling session that another process created. No I/O.

        Requests are numbered from ``first_seq_id``; a number that is already used is a repeat of its request. The
        first request starts the heartbeats of ``session_id``, the session that the sampling session belongs to.

        Raises:
            InvalidRequest: the id is empty, or the number is out of range.
        """
        if not isinstance(sampling_session_id, str) or not sampling_session_id:
            raise invalid("sampling_session_id", sampling_session_id, "give the id of a sampling session")
        return SamplingClient(
            self,
            sampling_session_id,
            session=self.attached_session(session_id),
            base_model=base_model,
            model_path=model_path,
            first_seq_id=first_seq_id,
            record_stability_info=record_stability_info,
        )

    async def new_sampling_client(
        self,
        session: Session,
        weights: CheckpointAddress | None,
        base_model: str | None = None,
        *,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Create a sampling session in ``session``. On this client's event loop only."""
        model_path = None if weights is None else weights.text
        request = CreateSamplingSessionRequest(
            session_id=await session.ensure(),
            sampling_session_seq_id=session.next_sampler_seq_id(),
            base_model=base_model,
            model_path=model_path,
        )
        created = await self.connection.post(
            "create_sampling_session",
            request.body(),
            CreateSamplingSessionResponse,
            resource=Resource.MODEL if weights is None else Resource.CHECKPOINT,
        )
        return SamplingClient(
            self,
            created.sampling_session_id,
            session=session,
            base_model=base_model,
            model_path=model_path,
            record_stability_info=record_stability_info,
        )
