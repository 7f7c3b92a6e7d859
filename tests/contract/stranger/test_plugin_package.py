"""A stranger's package, installed into a clean environment, is found and run; the page that explains it is true."""

import json
import os
import re
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHOWN = ROOT / "tests" / "plugin_package"
PAGE = ROOT / "docs" / "howto" / "write-a-backend.md"
FENCE = re.compile(r"<!-- (file: (?P<file>\S+)|run) -->\n```(?P<kind>\w+)\n(?P<code>.*?)```", re.DOTALL)
SNIPPETS = [match.groupdict() for match in FENCE.finditer(PAGE.read_text())]


class Environment:
    """A clean environment: nsai-work and its dependencies come from the one that runs the tests, the plug-in is
    installed from its own wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "env" / "bin" / "python"

    def run(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, with a home of its own."""
        paths = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": paths, "HOME": str(self.folder), "NSAI_WORK_HOME": str(self.folder / "home")}
        return subprocess.run(
            command, cwd=self.folder, env=environment, input=stdin, capture_output=True, text=True, timeout=120
        )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that results from following the page: the blocks of each file, in order, and nothing else."""
    folder = tmp_path_factory.mktemp("written") / "plugin"
    for snippet in SNIPPETS:
        if snippet["file"]:
            file = folder / snippet["file"]
            file.parent.mkdir(parents=True, exist_ok=True)
            before = file.read_text() + "\n" if file.exists() else ""
            file.write_text(before + snippet["code"])
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Environment:
    """Made once: a wheel is built and installed, as a user would do."""
    made = Environment(tmp_path_factory.mktemp("stranger"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheels = made.folder / "wheels"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(package)],
        check=True,
        timeout=120,
    )
    venv.create(made.python.parents[1], with_pip=False)
    (packages,) = (made.python.parents[1] / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(
        "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    )
    (wheel,) = wheels.iterdir()
    subprocess.run(
        [*pip, "--python", str(made.python), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        timeout=120,
    )
    command = made.python.parent / "nsai-work"
    command.write_text(f"#!{made.python}\nfrom nsai_work.cli import main\nmain()\n")
    command.chmod(0o755)
    return made


def test_the_command_line_lists_it(environment: Environment) -> None:
    """With its package, its version, what it can do and how it is."""
    listed = environment.run("nsai-work", "backends", "--json")

    assert listed.returncode == 0, listed.stderr
    report = next(entry for entry in json.loads(listed.stdout) if entry["name"] == "proverbs")
    assert (report["package"], report["version"], report["error"]) == ("crucible-proverbs", "1.2.0", None)
    assert report["health"]["ok"]
    assert report["capabilities"]["models"] == ["proverbs-en"]


def test_the_command_line_completes_with_it(environment: Environment) -> None:
    """By its name alone."""
    answered = environment.run("nsai-work", "complete", "--backend", "proverbs", "--seed", "4", "--json", "Hi")

    assert answered.returncode == 0, answered.stderr
    completion = json.loads(answered.stdout)
    assert completion["choices"][0]["message"]["content"].endswith(".")


def test_what_it_does_not_claim_is_refused_with_its_name(environment: Environment) -> None:
    """As bad input, before its code is asked."""
    refused = environment.run("nsai-work", "complete", "--backend", "proverbs", "--temperature", "1", "Hi")

    assert refused.returncode == 2
    assert "options.temperature" in refused.stderr
    assert "proverbs" in refused.stderr


def test_it_keeps_the_contract(environment: Environment, package: Path) -> None:
    """Its own three-line test suite passes in its own environment."""
    tested = environment.run(str(environment.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package))

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_it_imports_nothing_private(package: Path) -> None:
    """Only ``crucible``, and of it only public modules and names."""
    import crucible

    for file in (package / "src").rglob("*.py"):
        text = file.read_text()
        modules = set(re.findall(r"^(?:from|import) (\S+)", text, re.MULTILINE))
        foreign = {name for name in modules if name.split(".")[0] in ("nsai_work", "backends")}
        assert not foreign
        assert not any(part.startswith("_") for name in modules for part in name.split("."))
        named = re.search(r"^from crucible import \(\n(.*?)\)", text, re.MULTILINE | re.DOTALL)
        if named:
            assert {name.strip() for name in named[1].split(",") if name.strip()} <= set(crucible.__all__)


@pytest.mark.parametrize("file", sorted({one["file"] for one in SNIPPETS if one["file"]}))
def test_the_page_shows_the_whole_package(package: Path, file: str) -> None:
    """The shown package and the page differ in empty lines only."""
    written, shown = (
        [line for line in (folder / file).read_text().splitlines() if line] for folder in (package, SHOWN)
    )
    assert written == shown


def test_the_page_names_what_every_backend_needs() -> None:
    """All abstract methods, and the error for a wrong value."""
    from crucible import Backend

    page = PAGE.read_text()
    for name in (*Backend.__abstractmethods__, "InvalidRequest.of"):
        assert name in page


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if not one["file"]], ids=lambda one: one["kind"])
def test_the_commands_of_the_page_run(environment: Environment, snippet: dict[str, str]) -> None:
    """Copied and pasted, they work."""
    shell = {"sh": ["sh", "-eu", "-c"], "python": [str(environment.python), "-c"]}[snippet["kind"]]
    done = environment.run(*shell, snippet["code"])

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
