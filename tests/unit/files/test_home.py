"""NSAI_WORK_HOME means the same folder to all who read it."""

from pathlib import Path

import pytest

from backends.fake.settings import FakeSettings
from backends.peft.settings import PeftSettings
from backends.tinkex.discovery import dev_server_file
from backends.tinkex_dev.demo.folder import prepare_folder
from backends.tinkex_dev.demo.stage import environment
from crucible.errors import InvalidRequest
from nsai_work.files.home import home_folder
from nsai_work.settings import Settings

HOMES = {
    "~": ("~/work", "{user}/work"),
    "relative": ("some/where", "{cwd}/some/where"),
    "absolute": ("/some/where", "/some/where"),
    "empty": ("", "{user}/state/nsai-work"),
    "unset": (None, "{user}/state/nsai-work"),
}


@pytest.fixture
def _user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a home directory and a state folder of their own, in a working directory."""
    for folder in ("user", "cwd"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user" / "state"))
    monkeypatch.chdir(tmp_path / "cwd")


def set_home(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Set or unset the variable."""
    if value is None:
        monkeypatch.delenv("NSAI_WORK_HOME", raising=False)
    else:
        monkeypatch.setenv("NSAI_WORK_HOME", value)


def readers() -> set[Path]:
    """The home folder of everything that reads the variable."""
    return {
        home_folder(),
        Settings().home,
        dev_server_file().parent,
        FakeSettings().folder().parent,
        PeftSettings().folder().parent,
    }


@pytest.mark.usefixtures("_user")
@pytest.mark.parametrize(("value", "expected"), HOMES.values(), ids=HOMES.keys())
def test_all_readers_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str
) -> None:
    """Settings, the dev server's discovery file and the local backends; also in the demo, which sets its own."""
    set_home(monkeypatch, value)

    folder = Path(expected.format(user=tmp_path / "user", cwd=tmp_path / "cwd"))
    assert readers() == {folder}
    demo = prepare_folder(Path("demo-output"))
    with environment({"NSAI_WORK_HOME": str(demo.home)}):
        assert readers() == {tmp_path / "cwd" / "demo-output" / "home"}
    assert readers() == {folder}


def test_an_unknown_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each reader, with the name of the variable."""
    set_home(monkeypatch, "~nobody-has-this-name/home")

    for reader in (home_folder, Settings, dev_server_file, FakeSettings().folder, PeftSettings().folder):
        with pytest.raises(InvalidRequest, match=r"NSAI_WORK_HOME: .*user that does not exist"):
            reader()
