"""Options of a server."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

DEFAULT_PORT: Final = 8077


class Order(StrEnum):
    """Orders in which a model's numbered operations run."""

    SEQ_ID = "seq_id"
    """By number; an operation waits for the missing ones before it."""
    ARRIVAL = "arrival"
    """As they arrive, whatever their numbers."""
    STRICT = "strict"
    """As they arrive; one that arrives before its turn fails."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of one server."""

    state_dir: Path
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    latency_ms: float = 0.0
    """Added to every HTTP call, to simulate a distant network."""
    work_ms: float = 0.0
    """Added to every operation of a model, to simulate a bigger model."""
    hold_s: float = 20.0
    """The time for which ``retrieve_future`` blocks on an unfinished future before it answers "try again"."""
    try_again_status: int = 408
    """408, or 200 with a body of type ``try_again``; real servers use either."""
    session_ttl_s: float = 120.0
    """A session without a request for this long ends, and its live models with it."""
    require_key: str | None = field(default=None, repr=False)
    """The only accepted API key; by default any key that begins with ``tml-``."""
    max_runs: int | None = None
    """Maximum number of live models; creating one more is answered with 429."""
    replay: bool = True
    """A repeated seq_id is answered from the record of requests; otherwise it runs again."""
    order: Order = Order.SEQ_ID
    """The order in which a model's operations run; servers differ in it."""
    strict_load: bool = True
    """``load_weights`` must be a model's first training request."""
    protobuf: bool = True
    """Protobuf is supported; otherwise a protobuf body is refused, and results are JSON."""
    protobuf_refusal: int = 415
    """The status with which a protobuf body is refused; some servers fail on it with 500."""
    missing_routes: frozenset[str] = frozenset()
    """Routes, by the first segment of their path, that the server does not have: 404."""
    opaque_paths: bool = False
    """The paths of saves have a form of the server's own, which names neither run nor kind."""
    short_prompt_logprobs: bool = False
    """Log-probabilities of a prompt omit the first token, which has none."""
    client_config: dict[str, object] = field(default_factory=dict)
    """Flags for ``client/config`` that override the server's defaults."""
