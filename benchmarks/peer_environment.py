"""Where the benchmarks find their peers: in the environments that tests/peers/provision.py makes."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
NEWEST_SDK = "sdk-0.38.0"
QUEUES = "queues"
COOKBOOK = "cookbook"


def how_to_install(name: str) -> str:
    """What to run where an environment is missing."""
    return f"`python tests/peers/provision.py {name}` installs it"


def peer_python(name: str) -> Path | None:
    """The Python of a peer's environment, if it has been made."""
    home = os.environ.get("NSAI_PEERS_HOME")
    python = (Path(home) if home else REPOSITORY / ".peers") / name / "bin" / "python"
    return python if python.exists() else None
