"""How a server was asked to behave."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SUPPORTED_MODELS: Final = ("tiny-lm", "llama-3.2-1b", "llama-3.2-3b", "qwen/qwen2.5-7b")
"""``tiny-lm``, and names that stand in for real ones: the same tiny architecture, other random base weights."""

CONTEXT_LENGTH: Final = 32_768
DEFAULT_PORT: Final = 8077


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one server; times in seconds unless the name says otherwise."""

    state_dir: Path
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    latency_ms: float = 0.0
    """Added to every HTTP call, as a far network would."""
    work_ms: float = 0.0
    """Added to every operation of a model, in its turn, as a bigger model would."""
    hold_s: float = 20.0
    """How long a call for an unfinished future is held before it is answered with "try again"."""
    try_again_status: int = 408
    """408, or 200 with a body of type ``try_again``: servers do either."""
    session_ttl_s: float = 120.0
    """A session that is not heard of for so long ends, and its live models with it."""
    require_key: str | None = field(default=None, repr=False)
    """The one accepted key; without it any key that begins with ``tml-``."""
    max_runs: int | None = None
    """How many live models there may be; the next one is answered with 429."""
    replay: bool = True
    """Whether a repeated seq_id is answered from the record; else it runs again."""
    strict_load: bool = True
    """Whether load_weights must be a model's first training request."""
    protobuf: bool = True
    """Whether protobuf is read and written; a server without it answers 415, and JSON."""
    client_config: dict[str, object] = field(default_factory=dict)
    """Flags for ``client/config``, over the server's own."""
