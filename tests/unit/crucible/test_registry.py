"""Backends are found by name, loaded one at a time, and held to the contract; what is wrong is said."""

import sys
from pathlib import Path

import pytest

import crucible
from crucible import (
    Backend,
    PluginError,
    Prompt,
    UnknownBackend,
    backend_entries,
    backend_names,
    connect,
    load_backend,
)
from crucible.runtime.checked_calls import checked_health
from crucible.testing.loop import run_opened

PLUGIN = """
from crucible import Backend, Capabilities, Completion, Health

class Whole(Backend):
    name = "whole"
    async def capabilities(self): return Capabilities(backend_id="whole", provider="here", default_model="m")
    async def complete(self, prompt): return Completion(model="m")
    async def stream(self, prompt):
        yield "no event"
    async def health_check(self): raise RuntimeError("ill")

class Liar(Whole):
    name = "liar"
    async def complete(self, prompt): return {"choices": []}

class Breaking(Whole):
    name = "breaking"
    async def capabilities(self): raise KeyError("oops")

class Refusing(Whole):
    def __init__(self, config=None): raise RuntimeError("no")

class Leaving(Whole):
    def __init__(self, config=None): raise SystemExit(0)

Thing = 7
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with good and bad plug-ins."""
    points = {
        "whole": "stranger:Whole",
        "liar": "stranger:Liar",
        "breaking": "stranger:Breaking",
        "refusing": "stranger:Refusing",
        "thing": "stranger:Thing",
        "absent": "stranger_that_is_not_there:Backend",
        "twice": "stranger:Whole",
        "leaving": "stranger:Leaving",
        "left": "stranger_that_leaves:Whole",
        "odd": "stranger_that_is_odd:Whole",
        "no target": "stranger: Whole thing",
    }
    for package, names in {"stranger": list(points), "doppel": ["twice"]}.items():
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = [f"{name} = {points[name]}" for name in names]
        (info / "entry_points.txt").write_text("\n".join(["[crucible.backends]", *lines]) + "\n")
    (tmp_path / "stranger.py").write_text(PLUGIN)
    (tmp_path / "stranger_that_leaves.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "stranger_that_is_odd.py").write_text("raise BaseException('odd')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    import stevedore._cache
    import stevedore.extension

    monkeypatch.setattr(stevedore._cache, "_c", stevedore._cache.Cache())
    monkeypatch.setattr(stevedore.extension.ExtensionManager, "ENTRY_POINT_CACHE", {})


def test_names_are_listed_without_importing(plugins: None) -> None:
    """A listing shows even those that cannot be imported, and imports none."""
    assert {"fake", "tinkex", "whole", "absent"} <= set(backend_names())
    assert "stranger" not in sys.modules
    entry = next(entry for entry in backend_entries() if entry.name == "whole")
    assert (entry.package, entry.version, entry.target) == ("stranger", "1.2", "stranger:Whole")


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The reader sees what could have been meant."""
    with pytest.raises(UnknownBackend, match=r"'nope'.*fake.*tinkex") as caught:
        load_backend("nope")

    assert "fake" in caught.value.details["known"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "stranger_that_is_not_there"),
        ("thing", "must name a class"),
        ("refusing", "RuntimeError('no')"),
        ("twice", "registered 2 times"),
        ("leaving", "it raised SystemExit(0)"),
        ("left", "it raised SystemExit(0)"),
        ("odd", "it raised BaseException(odd)"),
        ("no target", "cannot be imported: AttributeError"),
    ],
)
def test_a_bad_plugin_is_a_plugin_error(plugins: None, name: str, said: str) -> None:
    """It fails when it is asked for, with its name and the cause."""
    with pytest.raises(PluginError, match="(?s)" + said.replace("(", r"\(").replace(")", r"\)")) as caught:
        load_backend(name)

    assert name in str(caught.value)
    assert "in place of" not in str(caught.value)


def test_whoever_loads_plugins_survives_them() -> None:
    """Of sinks, functions, objectives, environments, notifiers and commands too: none ends the process."""
    root = Path(crucible.__file__).parents[1]
    files = [file for package in ("crucible", "nsai_work", "backends") for file in (root / package).rglob("*.py")]
    loading = {file: text for file in files if "entry_points(group=" in (text := file.read_text())}

    assert len(loading) >= 7
    assert [file.name for file, text in loading.items() if "with plugin_code():" not in text] == []


def test_a_plugin_that_lies_is_caught(plugins: None) -> None:
    """A wrong type is the plug-in's error, and it names the method."""
    prompt = Prompt(messages=[{"role": "user", "content": "Hi"}])

    with connect("liar") as backend, pytest.raises(PluginError, match="complete returned dict"):
        backend.complete(prompt)
    with connect("whole") as backend, pytest.raises(PluginError, match="stream yielded a str"):
        list(backend.stream(prompt))
    with connect("breaking") as backend, pytest.raises(PluginError, match="capabilities raised KeyError"):
        backend.capabilities()


def test_a_plugin_whose_health_check_breaks_is_ill(plugins: None) -> None:
    """Health is an answer, never an exception."""
    health = run_opened(load_backend("whole"), checked_health)

    assert not health.ok
    assert "ill" in (health.reason or "")


def test_loading_gives_a_backend_with_its_settings() -> None:
    """The one registered for real."""
    backend = load_backend("fake", {"script": {"answers": ["Yes."]}})

    assert isinstance(backend, Backend)


SHADOWED = "[crucible.backends]\nhidden = shadowed_plugin.backend:Backend\n"


@pytest.mark.parametrize("form", ["folder", "package", "module"])
def test_what_shadows_a_plug_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """A project's own folder, or a package installed later, that has the name of the plug-in's package."""
    info = tmp_path / "installed" / "hidden-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hidden\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(SHADOWED)
    project = tmp_path / "project"
    own = project / ("shadowed_plugin.py" if form == "module" else "shadowed_plugin")
    project.mkdir()
    if form == "module":
        own.write_text("")
    else:
        own.mkdir()
    if form == "package":
        (own / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.syspath_prepend(str(project))

    with pytest.raises(
        PluginError, match=f"{own}.* is imported in place of the package 'shadowed_plugin' of hidden"
    ):
        load_backend("hidden")

    monkeypatch.delitem(sys.modules, "shadowed_plugin", raising=False)
