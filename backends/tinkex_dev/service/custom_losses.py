"""Traced losses that sessions store, by their ids."""

from backends.tinkex_dev.errors import InvalidField, Refused
from backends.tinkex_dev.service.run import CUSTOM, Batch
from backends.tiny_lm.losses import LossFunction
from backends.tiny_lm.traced_loss import TracedLoss


class CustomLosses:
    """The losses of all open sessions. Each belongs to the session that stored it, and ends with it."""

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[str, TracedLoss]] = {}

    def is_stored(self, loss_id: str, digest: str) -> bool:
        """Check whether the same request stored that loss before.

        Raises:
            Refused: 409 if another request did.
        """
        earlier = self._by_id.get(loss_id)
        if earlier is not None and earlier[0] != digest:
            raise Refused(409, f"{loss_id}: this custom_loss_seq_id was used for another loss")
        return earlier is not None

    def store(self, loss_id: str, digest: str, loss: TracedLoss) -> None:
        """Store a loss."""
        self._by_id[loss_id] = (digest, loss)

    def end_session(self, session_id: str) -> None:
        """Forget the losses of a session."""
        for loss_id in [key for key in self._by_id if key.startswith(f"{session_id}:")]:
            del self._by_id[loss_id]

    def of_batch(self, session_id: str, batch: Batch) -> LossFunction | None:
        """The loss of a batch whose ``loss_fn`` is ``custom``, from its own session; None for another batch.

        Raises:
            InvalidField: the session has no loss of that id, or an example lacks an input of it.
        """
        if batch.loss_fn != CUSTOM:
            return None
        loss_id = str(batch.config["loss_id"])
        stored = self._by_id.get(loss_id) if loss_id.startswith(f"{session_id}:") else None
        if stored is None:
            path = ("forward_backward_input", "loss_fn_config", "loss_id")
            raise InvalidField.at(path, f"{loss_id!r} is no loss that this session created")
        function = stored[1].function
        for index, example in enumerate(batch.examples):
            names, given = set(function.required), set(example.loss_inputs)
            if names != given:
                where = ("forward_backward_input", "data", index, "loss_fn_inputs")
                raise InvalidField.at(where, f"inputs {sorted(given)}; the loss reads {sorted(names)}")
        return function
