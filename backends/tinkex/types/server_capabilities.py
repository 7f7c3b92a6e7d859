"""The models of a server."""

from pydantic import Field

from backends.tinkex.types.wire_record import ReadRecord


class SupportedModel(ReadRecord):
    """A model of a server. Fields that the server omits are None."""

    model_name: str = ""
    max_context_length: int | None = None
    trainable: bool | None = None
    sampleable: bool | None = None
    tokenizer_id: str | None = None


class ServerCapabilities(ReadRecord):
    """The capabilities of a server."""

    supported_models: list[SupportedModel] = Field(default_factory=list)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of the models, in the server's order."""
        return tuple(model.model_name for model in self.supported_models if model.model_name)
