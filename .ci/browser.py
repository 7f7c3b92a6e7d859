#!/usr/bin/env python3
"""Provides what the tests of the page need beside Python: Chromium, and axe-core for the check of accessibility.

    eval "$(python3 .ci/browser.py)"

prints the variables as shell commands. Chromium is the one that a variable names, or an installed one; as root, the
system's package is installed. axe-core is packed by npm, and must have the digest below. Uses the standard library
only, since no environment exists yet.
"""

import base64
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".browser"
AXE = "axe-core-4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
NAMES = ("chromium", "chromium-browser", "google-chrome")
COMMAND_S = 600


def chromium() -> str:
    """Return the path of a Chromium, which is installed if there is none and this user may."""
    if named := os.environ.get("NSAI_TEST_CHROMIUM"):
        return named
    found = _installed()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _run("apt-get", "update")
        _run("apt-get", "install", "-y", "--no-install-recommends", "chromium")
        found = _installed()
    if found is None:
        sys.exit("the tests of the page need Chromium: install it, or name one in NSAI_TEST_CHROMIUM")
    return found


def axe() -> str:
    """Return the path of axe-core's script."""
    if named := os.environ.get("NSAI_TEST_AXE"):
        return named
    archive = FOLDER / f"{AXE}.tgz"
    if not archive.exists():
        FOLDER.mkdir(exist_ok=True)
        _run("npm", "pack", "--silent", "--pack-destination", str(FOLDER), AXE.replace("core-", "core@"))
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != AXE_SHA512:
        archive.unlink()
        sys.exit(f"{archive.name} is not the file that it was: its SHA-512 is {digest}")
    with tarfile.open(archive) as packed:
        content = packed.extractfile("package/axe.min.js")
        assert content is not None
        script = FOLDER / "axe.min.js"
        script.write_bytes(content.read())
    return str(script)


def _installed() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _run(*command: str) -> None:
    # their output must not reach the shell that evaluates ours
    done = subprocess.run(command, stdout=sys.stderr, timeout=COMMAND_S, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit status {done.returncode}")


def main() -> None:
    """Print the variables."""
    for name, value in (("CHROMIUM", chromium()), ("AXE", axe())):
        print(f"export NSAI_TEST_{name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
