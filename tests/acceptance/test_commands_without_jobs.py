"""The commands that need no job: complete, backends, doctor and db."""

import json
import sqlite3
import struct
import zlib
from pathlib import Path

import pytest

from tests.acceptance.conftest import Cli


def test_complete_prints_the_answer(cli: Cli) -> None:
    """The prompt comes from an argument or from stdin; equal seeds give equal answers."""
    options = ("--backend", "fake", "--model", "tiny-lm", "--max-tokens", 12, "--seed", 7, "--temperature", 0.7)

    argued = cli.run("complete", *options, "Hello")
    piped = cli.run("complete", *options, "-", stdin="Hello")

    assert argued.returncode == 0, argued.stderr
    assert argued.stdout == piped.stdout
    assert argued.stdout.endswith("\n")


def test_complete_as_json(cli: Cli) -> None:
    """The output is the whole completion, including usage."""
    completion = cli.json("complete", "--backend", "fake", "--model", "tiny-lm", "--max-tokens", 5, "Hello")

    assert completion["choices"][0]["message"]["role"] == "assistant"
    assert completion["usage"]["completion_tokens"] <= 5


def test_complete_rejects_bad_input(cli: Cli, tmp_path: Path) -> None:
    """An unknown model, an invalid option and an invalid image: exit code 2, each named in the message."""
    text = tmp_path / "picture.png"
    text.write_text("no picture")
    cases = [
        (("--backend", "fake", "--model", "gpt-17", "Hi"), "gpt-17"),
        (("--backend", "fake", "--temperature", -1, "Hi"), "temperature"),
        (("--backend", "fake", "--image", text, "Hi"), "image"),
    ]
    for arguments, word in cases:
        done = cli.run("complete", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert word in done.stderr


def test_complete_rejects_an_image_without_vision(cli: Cli, tmp_path: Path) -> None:
    """A valid image reaches the check of a backend without vision, which rejects it."""
    picture = tmp_path / "dot.png"
    picture.write_bytes(_dot())

    done = cli.run("complete", "--backend", "fake", "--model", "tiny-lm", "--image", picture, "What is this?")

    assert done.returncode == 2
    assert "supports_vision" in done.stderr


def test_backends_lists_the_installed_backends(cli: Cli) -> None:
    """A backend without its key is listed as unavailable, not as broken."""
    listed = {item["name"]: item for item in cli.json("backends")}

    assert listed["fake"]["health"]["ok"] is True
    assert listed["fake"]["capabilities"]["supports_training"] is True
    assert listed["fake"]["package"] == "nsai-work"
    assert listed["tinkex"]["health"]["ok"] is False
    assert "TINKER_API_KEY" in listed["tinkex"]["health"]["reason"]


def test_a_running_dev_server_is_found(cli: Cli) -> None:
    """tinkex uses a running dev server without any setting, and doctor shows both."""
    with cli.dev_server() as url:
        (listed,) = cli.json("backends", "tinkex")
        findings = {item["subject"]: item for item in cli.json("doctor")}

    assert listed["health"]["ok"] is True, listed
    assert "tiny-lm" in listed["capabilities"]["models"]
    assert (findings["dev server"]["verdict"], findings["dev server"]["detail"]) == ("ok", url)
    assert findings["backend tinkex"]["verdict"] == "ok"


def test_doctor_is_red_without_a_key_for_the_default_backend(cli: Cli) -> None:
    """Only that is broken in an empty home; a missing dev server is a note with advice."""
    findings = {item["subject"]: item for item in cli.json("doctor", code=1)}

    assert {findings[name]["verdict"] for name in ("settings", "home", "database", "broker")} == {"ok"}
    assert findings["backend tinkex"]["verdict"] == "broken"
    assert "TINKER_API_KEY" in findings["backend tinkex"]["detail"]
    assert "nsai-work dev-server" in findings["backend tinkex"]["advice"]
    assert [name for name, item in findings.items() if item["verdict"] == "broken"] == ["backend tinkex"]
    assert findings["backend fake"]["verdict"] == "ok"
    assert findings["dev server"]["verdict"] == "note"
    assert "nsai-work dev-server" in findings["dev server"]["advice"]


def test_doctor_is_red_if_the_default_backend_does_not_answer(cli: Cli) -> None:
    """A key alone is not enough."""
    away = Cli(cli.home, {"TINKER_BASE_URL": "http://127.0.0.1:1", "TINKER_API_KEY": "tml-x"})

    findings = {item["subject"]: item for item in away.json("doctor", code=1)}

    assert findings["backend tinkex"]["verdict"] == "broken"
    assert "127.0.0.1:1" in findings["backend tinkex"]["detail"]


def test_doctor_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    """Neither a home nor a file in a home; a store of an older version stays as it is."""
    before = snapshot(tmp_path)
    cli.run("doctor")
    assert snapshot(tmp_path) == before

    assert cli.run("db", "upgrade").returncode == 0
    with sqlite3.connect(cli.home / "nsai-work.db") as connection:
        connection.execute("UPDATE nsai_alembic_version SET version_num = '0001'")
    connection.close()
    before = snapshot(tmp_path)
    findings = {item["subject"]: item for item in cli.json("doctor", code=1)}

    assert snapshot(tmp_path) == before
    assert "schema version: 0001; the next process upgrades it" in findings["database"]["detail"]


@pytest.mark.parametrize(
    "command",
    [
        ["list"], ["list", "--json"], ["show", "nope"], ["steps", "nope"], ["checkpoints", "nope"],
        ["watch", "nope"], ["cancel", "nope"], ["retry", "nope"], ["promote", "nope", "final"], ["run", "nope"],
        ["limits", "list"], ["db", "prune", "--older-than", "1d"], ["backends"], ["backends", "--json"],
        ["--version"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_reading_makes_no_home_and_no_store(cli: Cli, command: list[str]) -> None:
    """Also commands that change a job, since there is none; those about a job end with code 3."""
    done = cli.run(*command)

    assert done.returncode == (3 if "nope" in command or "prune" in command else 0), done.stderr
    assert not cli.home.exists()
    if done.returncode == 3:
        assert "there is no job store yet" in done.stderr
        assert command[1] in done.stderr or "prune" in command


def test_an_empty_list_says_that_there_is_no_store(cli: Cli) -> None:
    """So that nobody looks for jobs in the wrong home; the list itself is empty."""
    done = cli.run("list", "--json")

    assert json.loads(done.stdout) == []
    assert str(cli.home / "nsai-work.db") in done.stderr


def test_reading_makes_no_store_where_one_was(cli: Cli, tmp_path: Path) -> None:
    """The home, its files and its messages are there, and only the database's file is gone."""
    job = tmp_path / "job.yaml"
    job.write_text("{kind: tool_call, backend: fake, payload: {command: noop}}")
    job_id = cli.json("submit", job)["id"]
    for path in cli.home.glob("nsai-work.db*"):
        path.unlink()
    before = snapshot(cli.home)
    assert before

    for command, code in ((["list"], 0), (["list", "--json"], 0), (["show", job_id], 3)):
        done = cli.run(*command)

        assert done.returncode == code, done.stderr
        assert str(cli.home / "nsai-work.db") in done.stderr
        assert snapshot(cli.home) == before


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files and folders below a folder, with their modes and contents."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def test_doctor_shows_the_accounts(cli: Cli) -> None:
    """An account of a backend that is not installed is a note: no job here counts against its limits."""
    named = Cli(cli.home, {"NSAI_WORK_CREDENTIALS": '{"fake": "team-a", "fakr": "team-b"}'})

    findings = {item["subject"]: item for item in named.json("doctor", code=1)}

    assert findings["credentials"]["verdict"] == "note"
    assert "fake as team-a" in findings["credentials"]["detail"]
    assert "not installed: fakr" in findings["credentials"]["detail"]
    assert "NSAI_WORK_CREDENTIALS" in findings["credentials"]["advice"]


def test_doctor_reports_what_is_broken_without_passwords(cli: Cli) -> None:
    """Exit code 1; an unreachable database and broker are broken, and their passwords are hidden."""
    broken = Cli(
        cli.home,
        {
            "NSAI_WORK_DATABASE_URL": "postgresql+psycopg://me:hunter2@127.0.0.1:1/none",
            "NSAI_WORK_BROKER_URL": "amqp://me:hunter2@127.0.0.1:1//",
        },
    )
    done = broken.run("doctor", "--json")

    assert done.returncode == 1
    findings = {item["subject"]: item for item in json.loads(done.stdout)}
    assert findings["database"]["verdict"] == "broken"
    assert findings["broker"]["verdict"] == "broken"
    assert "hunter2" not in done.stdout + done.stderr


def test_a_broken_plugin_is_listed_with_its_error(cli: Cli, tmp_path: Path) -> None:
    """If the import of a backend and a command fails, all others work, and doctor exits with 1."""
    installed = tmp_path / "site" / "acme_broken-1.2.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 1.2\n")
    target = "acme = acme_that_is_not_there:Thing\n"
    (installed / "entry_points.txt").write_text(f"[crucible.backends]\n{target}\n[nsai_work.commands]\n{target}")
    beside = Cli(cli.home, {"PYTHONPATH": str(tmp_path / "site")})

    listed = {item["name"]: item for item in beside.json("backends")}
    findings = {item["subject"]: item for item in beside.json("doctor", code=1)}
    called = beside.run("acme")

    assert (listed["acme"]["package"], listed["acme"]["version"]) == ("acme-broken", "1.2")
    assert "acme_that_is_not_there" in listed["acme"]["error"]["message"]
    assert listed["fake"]["error"] is None
    assert findings["backend acme"]["verdict"] == "broken"
    assert called.returncode == 1
    assert "acme_that_is_not_there" in called.stderr
    assert "Traceback" not in called.stderr


def test_db_upgrade_twice(cli: Cli) -> None:
    """The second upgrade does nothing."""
    for _ in range(2):
        done = cli.run("db", "upgrade")
        assert done.returncode == 0, done.stderr
        assert "up to date" in done.stdout


def test_version(cli: Cli) -> None:
    """The output starts with the name of the command."""
    assert cli.run("--version").stdout.startswith("nsai-work ")


def _dot() -> bytes:
    """Return a PNG image of a single pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\x00")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
