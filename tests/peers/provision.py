"""Environments for software that we did not write: one folder each, made from pinned lists, reused when whole.

``python tests/peers/provision.py [NAME ...]`` makes them ahead of the tests. They lie in ``NSAI_PEERS_HOME``,
or in ``.peers`` of this repository.
"""

import contextlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
HOME_VARIABLE = "NSAI_PEERS_HOME"
INSTALL_TIMEOUT_S = 1200

_VERIFY = """
import importlib.metadata as metadata, sys
for line in sys.stdin.read().split():
    name, _, wanted = line.partition("==")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        sys.exit(f"{name} is missing")
    if found.partition("+")[0] != wanted:
        sys.exit(f"{name} is {found}, wanted {wanted}")
"""


class NotProvided(Exception):
    """A peer could not be installed; the message says what was tried and how it failed."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One environment: the pins of ``requirements`` (names and versions of all it needs) and ``extra``."""

    name: str
    requirements: str
    extra: tuple[str, ...] = ()
    startup: str | None = None
    """A line that this environment's interpreter runs when it starts."""

    @property
    def pins(self) -> tuple[str, ...]:
        """Every package with its version."""
        lines = (HERE / self.requirements).read_text().split()
        return (*lines, *self.extra)


SDK_VERSIONS = ("0.24.1", "0.25.0", "0.38.0")
"""The last that speaks JSON, the first that speaks protobuf, and the newest."""

_TYPED_DICT = "import typing, typing_extensions; typing.TypedDict = typing_extensions.TypedDict"

PEERS = {
    peer.name: peer
    for peer in (
        *(Peer(f"sdk-{version}", "requirements-sdk.txt", (f"tinker=={version}",)) for version in SDK_VERSIONS),
        Peer("tuft", "requirements-tuft.txt"),
        Peer("cookbook", "requirements-cookbook.txt"),
        Peer("openenv", "requirements-openenv.txt", ("openenv==0.10.0",)),
        # as the package was called before
        Peer("openenv-core", "requirements-openenv.txt", ("openenv-core==0.3.0",)),
        Peer("queues", "requirements-queues.txt"),
        Peer("inspect", "requirements-inspect.txt"),
        Peer("verifiers", "requirements-verifiers.txt"),
        # with this pydantic and Python 3.11, SkyRL's request models need the backport of TypedDict
        Peer("skyrl", "requirements-skyrl.txt", startup=_TYPED_DICT),
    )
}


def peers_home() -> Path:
    """Where the environments lie."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen) if chosen else HERE.parents[1] / ".peers"


def provide(name: str) -> Path:
    """The Python of a peer's environment, installed first if it is not whole.

    Raises:
        NotProvided: it could not be installed.
    """
    peer = PEERS[name]
    folder = peers_home() / name
    with _one_at_a_time(folder):
        if _lack(folder, peer) is not None:
            _install(folder, peer)
            lack = _lack(folder, peer)
            if lack is not None:
                raise NotProvided(f"{name}: after installing, {lack}")
    return folder / "bin" / "python"


def _lack(folder: Path, peer: Peer) -> str | None:
    """What the environment lacks, or nothing."""
    python = folder / "bin" / "python"
    if not python.exists():
        return "there is no environment"
    checked = subprocess.run(
        [python, "-I", "-c", _VERIFY],
        input="\n".join(peer.pins), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return None if checked.returncode == 0 else checked.stderr.strip()


def _install(folder: Path, peer: Peer) -> None:
    began = time.monotonic()
    venv.create(folder, with_pip=False, clear=True)
    # the lists are complete, so nothing is resolved: what a package would pull in beyond them stays out
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    command += ["--no-deps", "--no-compile", "--disable-pip-version-check", *peer.pins]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotProvided(f"{peer.name}: not installed within {INSTALL_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise NotProvided(f"{peer.name}: pip failed:\n{done.stderr[-2000:]}")
    if peer.startup is not None:
        [packages] = folder.glob("lib/python*/site-packages")
        (packages / "startup.pth").write_text(peer.startup + "\n")
    print(f"{peer.name}: {len(peer.pins)} packages in {time.monotonic() - began:.0f} s", file=sys.stderr)  # noqa: T201


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep two processes from installing the same environment."""
    import fcntl

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(names: list[str]) -> int:
    """Make the named environments, or all that the tests need: neither the opt-in one nor the benchmarks' own."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}", file=sys.stderr)  # noqa: T201
        return 2
    left_out = {"queues"} if os.environ.get("NSAI_TEST_SKYRL") else {"queues", "skyrl"}
    wanted = names or [name for name in PEERS if name not in left_out]
    for name in wanted:
        try:
            provide(name)
        except NotProvided as problem:
            print(problem, file=sys.stderr)  # noqa: T201
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
