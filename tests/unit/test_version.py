"""``nsai_work.__version__``."""

import subprocess
import sys
from importlib.metadata import version

import nsai_work


def test_the_version_is_that_of_the_distribution() -> None:
    """pyproject.toml is the only place where it is written."""
    assert nsai_work.__version__ == version("nsai-work")


def test_importing_the_package_reads_no_metadata() -> None:
    """The version is read on first access."""
    code = (
        "import sys; before = set(sys.modules); import nsai_work; "
        "print('importlib.metadata' in set(sys.modules) - before)"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert printed.stdout.strip() == "False"
