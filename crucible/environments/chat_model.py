"""Models that an environment asks: opponents, graders, reward models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from crucible.errors import BackendError, InvalidRequest
from crucible.prompt import Message
from crucible.values.suggestions import known_names


class ChatModel(ABC):
    """A model that an environment asks, beside the one that is trained."""

    @abstractmethod
    async def answer(
        self, messages: Sequence[Message], *, seed: int, max_tokens: int = 256, temperature: float = 1.0
    ) -> Message:
        """Return the model's answer to messages.

        ``seed`` (0 to 2^53 - 1) determines it as far as the service is deterministic: derive it from that of the
        episode, so that an episode repeats itself.

        Raises:
            InvalidRequest: the messages are too long, or the model cannot take them.
            ChatModelFailed: the service failed. Let it pass: the job waits or is tried again; no rollout is lost.
        """


class ServiceFailed(Exception):
    """A service that an environment needs failed; ``error`` says how. The job waits or is tried again."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(error.message)
        self.error = error


class ChatModelFailed(ServiceFailed):
    """The service of a model that an environment asks failed."""


def check_model_names(given: Mapping[str, object], wanted: Sequence[str]) -> None:
    """Check that the models that a job names are those that its environment asks.

    Raises:
        InvalidRequest: a name is unknown, or one is missing.
    """
    if not wanted and given:
        raise InvalidRequest.of(
            "environment.models", sorted(given), "this environment asks no models; leave it out"
        )
    for name in given:
        if name not in wanted:
            raise InvalidRequest.of("environment.models", name, known_names(name, wanted, are="it asks"))
    if missing := [name for name in wanted if name not in given]:
        raise InvalidRequest(
            f"environment.models: {', '.join(missing)} is missing; the environment asks {', '.join(wanted)}",
            details={"field": "environment.models"},
        )
