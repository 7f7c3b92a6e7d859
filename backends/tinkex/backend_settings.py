"""The settings of the ``tinkex`` backend."""

from pydantic import Field, SecretStr

from crucible.record import Record


class TinkexBackendSettings(Record):
    """All optional: without them the environment decides (``TINKER_API_KEY``, ``TINKER_BASE_URL``), else a
    development server that runs here."""

    base_url: str | None = None
    api_key: SecretStr | None = None
    loss_tolerance: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Relative difference at which two losses of one step count as equal; by default 0 for the development
    server and 0.001 for others."""
    heartbeat_s: float = Field(default=10.0, gt=0, le=60)
    give_up_after_s: float = Field(default=300.0, gt=0, le=86_400)
    """How long one request is tried again before its failure counts."""
    ask_within_s: float = Field(default=10.0, gt=0, le=600)
    """How long the service may take to say what it offers; after that it counts as away."""
    no_progress_s: float = Field(default=3600.0, gt=0)
    """How long the service may leave a request active without an end."""
    max_recoveries: int = Field(default=4, ge=1, le=1000)
    """How many recoveries go on at once; the others wait in line."""
    user_metadata: dict[str, str] = Field(default_factory=dict)
    """Told to the service with every session."""
