"""The key that a dev server requires never stands on its command line."""

from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Cli

KEY = "tml-only-this-one"


def status(url: str, key: str) -> int:
    """The status of a call with a key."""
    return httpx.get(f"{url}/api/v1/get_server_capabilities", headers={"X-API-Key": key}).status_code


@pytest.mark.parametrize("source", ["file", "environment"])
def test_the_key_comes_from_a_file_or_the_environment(cli: Cli, tmp_path: Path, source: str) -> None:
    """Any other key is refused, and the output does not show the key."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    arguments = ["--require-key-file", file] if source == "file" else []
    variables = {} if source == "file" else {"TINKER_DEV_SERVER_KEY": KEY}
    server = Cli(cli.home, variables)

    with server.running("dev-server", "--port", 0, *arguments) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        url = lines[0].removeprefix("listening on ").strip()
        statuses = [status(url, key) for key in (KEY, "tml-another")]
        command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()

    assert statuses == [200, 401]
    assert KEY not in "".join(lines)
    assert KEY.encode() not in command_line


def test_a_key_on_the_command_line_is_refused_with_the_way_out(cli: Cli) -> None:
    """The message does not repeat the key."""
    done = cli.run("dev-server", "--port", 0, "--require-key", KEY)

    assert done.returncode == 2
    assert "--require-key-file" in done.stderr
    assert "TINKER_DEV_SERVER_KEY" in done.stderr
    assert KEY not in done.stderr + done.stdout


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"], ids=["missing", "empty", "lines", "bytes"])
def test_a_key_file_without_a_key_is_refused(cli: Cli, tmp_path: Path, content: bytes | None) -> None:
    """The message names the option."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    done = cli.run("dev-server", "--port", 0, "--require-key-file", file)

    assert done.returncode == 2
    assert "--require-key-file" in done.stderr
