"""The models that a chat server offers: those of its backend, or the ones that it was started for."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from crucible.backend import Backend, TrainingBackend
from crucible.errors import BackendError, CallerError, InvalidRequest, NotFound, Unsupported
from crucible.runtime.checked_calls import checked_capabilities
from crucible.values.suggestions import known_names

MAX_LISTED: Final = 1_000


class OfferedModels:
    """The names that a request may have in ``model``.

    ``chosen`` maps names to the backend's models; the first of each model is the one that is listed. Without any,
    all of the backend's models are offered under their own names.
    """

    def __init__(self, backend: Backend, chosen: Mapping[str, str]) -> None:
        self._backend = backend
        self._chosen = chosen

    async def require(self) -> None:
        """Check the chosen models, as far as the backend knows models before it is asked for an answer. A service
        that fails now may answer later.

        Raises:
            InvalidRequest: there is no such model; the error lists those that there are.
        """
        with suppress(BackendError):
            capabilities = await checked_capabilities(self._backend)
            for name, model in self._chosen.items():
                if model in capabilities.models:
                    continue
                if not capabilities.accepts_other_models:
                    raise InvalidRequest.of("--model", name, known_names(model, capabilities.models))
                if isinstance(self._backend, TrainingBackend):
                    await self._require_weights(self._backend, name, model)

    async def _require_weights(self, backend: TrainingBackend, name: str, model: str) -> None:
        try:
            sampler = await backend.sampler(model)
        except Unsupported:
            return
        except CallerError as error:
            allowed = str(error.details.get("allowed") or error.message)
            raise InvalidRequest.of("--model", name, allowed, backend=backend.name) from error
        await sampler.close()

    async def names(self) -> Sequence[str]:
        """Return the names to list."""
        if self._chosen:
            listed: dict[str, str] = {}
            for name, model in self._chosen.items():
                listed.setdefault(model, name)
            return tuple(listed.values())
        return (await checked_capabilities(self._backend)).models[:MAX_LISTED]

    async def find(self, name: str) -> str:
        """Return the backend's model of that name. Raises NotFound, listing the names that there are."""
        if not self._chosen:
            return name  # the backend refuses an unknown one
        model = self._chosen.get(name)
        if model is None:
            raise await self.unknown(name)
        return model

    async def unknown(self, name: str) -> NotFound:
        """Return the error for a name that a request may not have."""
        known = known_names(name, await self.names())
        return NotFound(f"model: there is no model {name!r:.200}; {known}", details={"field": "options.model"})

    async def is_listed(self, name: str) -> bool:
        """Return whether a name is one of those that a request may have, as far as the backend lists them."""
        return name in (self._chosen or await self.names())
