"""The models that an environment asks, at the backend of its job."""

from collections.abc import Mapping, Sequence

from crucible.backend import Backend
from crucible.environments import ChatModel, ChatModelFailed
from crucible.errors import BackendError
from crucible.options import Options
from crucible.prompt import Message, Prompt
from nsai_work.payloads import EnvironmentSpec


def asked_models(spec: EnvironmentSpec, backend: Backend) -> Mapping[str, ChatModel]:
    """Return the models of an environment, by its names for them. Those of other jobs are paths already."""
    return {name: _CompletedModel(backend, str(model)) for name, model in spec.models.items()}


class _CompletedModel(ChatModel):
    """A model that answers by completions of a backend."""

    def __init__(self, backend: Backend, model: str) -> None:
        self._backend = backend
        self._model = model

    async def answer(
        self, messages: Sequence[Message], *, seed: int, max_tokens: int = 256, temperature: float = 1.0
    ) -> Message:
        options = Options(model=self._model, max_tokens=max_tokens, temperature=temperature, seed=seed)
        try:
            completion = await self._backend.complete(Prompt(messages=tuple(messages), options=options))
        except BackendError as error:
            raise ChatModelFailed(error) from error
        return completion.choices[0].message
