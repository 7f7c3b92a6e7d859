"""Settings of the ``tinkex`` backend."""

from pydantic import Field, SecretStr

from crucible.values.record import Record


class TinkexBackendSettings(Record):
    """Optional settings. Defaults: ``TINKER_API_KEY`` and ``TINKER_BASE_URL``, else a local development server."""

    base_url: str | None = None
    api_key: SecretStr | None = None
    loss_tolerance: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """The relative difference up to which two losses of one step count as equal; by default 0 for the development
    server and 0.001 for other servers."""
    heartbeat_s: float = Field(default=10.0, gt=0, le=60)
    give_up_after_s: float = Field(default=300.0, gt=0, le=86_400)
    """The time for which a request is retried before it fails."""
    ask_within_s: float = Field(default=10.0, gt=0, le=600)
    """The time that a request for the service's capabilities may take before the service counts as unavailable."""
    no_progress_s: float = Field(default=3600.0, gt=0)
    """The time for which the service may keep a request active without finishing it."""
    send_ahead: bool = True
    """Permission to find out if the service runs requests by their sequence numbers, and if so, to send them
    without waiting for the acceptance of earlier ones."""
    max_recoveries: int = Field(default=4, ge=1, le=1000)
    """The maximum number of concurrent recoveries; the others wait."""
    user_metadata: dict[str, str] = Field(default_factory=dict)
    """Metadata sent with every session."""
