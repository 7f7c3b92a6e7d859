"""The recipes of tinker-cookbook as job files: each entry point is accepted, or what it lacks is named."""

import base64
import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import submit_many
from nsai_work.client.jobfile import load_jobs
from nsai_work.client.variants import VariedField
from nsai_work.testing import isolated_store

FOLDER: Final = Path(__file__).parent
PAGE: Final = FOLDER.parents[1] / "docs" / "reference" / "recipes.md"
FAMILIES: Final = 18
WHOLE: Final = 16
"""The number of families all of whose entry points are accepted. It may only rise."""


class EntryPoint(BaseModel):
    """A row of the table: jobs that say the same as an entry point, or what they lack."""

    model_config = ConfigDict(extra="forbid")

    family: str
    name: str
    jobs: list[dict[str, Any]] = Field(default_factory=list)
    set: list[str] = Field(default_factory=list)
    lacks: str | None = None

    @model_validator(mode="after")
    def _require_one(self) -> "EntryPoint":
        assert bool(self.jobs) != bool(self.lacks)
        return self


TABLE: Final = yaml.safe_load((FOLDER / "families.yaml").read_text())
ENTRY_POINTS: Final = [EntryPoint.model_validate(each) for each in TABLE["entry_points"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each shape of data."""
    folder = tmp_path_factory.mktemp("families")
    talk = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    pair = {"prompt": "Which?", "chosen": "This.", "rejected": "That."}
    verdict = [{"role": "user", "content": "A: This. B: That."}, {"role": "assistant", "content": "A"}]
    choice = [{"type": "text", "text": "choice#", "weight": 0}, {"type": "text", "text": "yes"}]
    files: dict[str, list[dict[str, Any]]] = {
        "conversations.jsonl": [
            {"messages": [{"role": "user", "content": f"Which is {n}?"}, talk[1]]} for n in range(20)
        ],
        "comparisons.jsonl": [{"messages": verdict}] * 4,
        "preferences.jsonl": [pair] * 4,
        "sums.jsonl": [{"prompt": f"{n}+1=", "answer": n + 1} for n in range(9)],
        "decisions.jsonl": [{"messages": [talk[0], {"role": "assistant", "content": choice}]}] * 4,
        "outcomes.jsonl": [
            {"prompt": f"Market {n}?", "prefill": "choice#", "choices": {"Y": float(n % 2), "N": float(1 - n % 2)}}
            for n in range(20)
        ],
        "demonstrations.jsonl": [{"prompt": f"Which is {n}?", "answer": f"This {n}."} for n in range(9)],
        "pictures.jsonl": [{"messages": [_pictured(n), talk[1]]} for n in range(9)],
        "questions.jsonl": [{"prompt": f"Which is {n}?"} for n in range(9)],
        "prompts.jsonl": [{"messages": talk[:1]}] * 4,
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A running dev server."""
    with DevServer(tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.mark.parametrize("entry", [each for each in ENTRY_POINTS if each.jobs], ids=lambda each: each.name)
def test_the_jobs_of_an_entry_point_are_accepted(
    entry: EntryPoint, data: Path, service: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At submit, with all that is checked there: loss, data, environment, models, settings."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(_stub_of_verifiers(data)))
    file = data / f"{entry.name}.yaml"
    file.write_text(yaml.safe_dump([whole_job(job) for job in entry.jobs]))
    with isolated_store(python_allow="environments"):
        monkeypatch.setenv("TINKER_BASE_URL", service.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        handles = submit_many(load_jobs(file, [VariedField.parse(each) for each in entry.set]))
        names = [event.name for handle in handles for event in handle.events()]
    assert len(handles) == (len(entry.jobs) if not entry.set else 12)
    assert "submit.unverified" not in names


def _pictured(number: int) -> dict[str, Any]:
    """A question about an image of one gray pixel."""
    pixel = zlib.compress(bytes([0, number]))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"IDAT", pixel), (b"IEND", b"")]
    image = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"Which is {number}?"}]
    return {"role": "user", "content": parts}


def _stub_of_verifiers(folder: Path) -> Path:
    """A folder where verifiers and one of its environments seem to be installed; tests/peers has them."""
    place = folder / "packages"
    installed = place / "reverse_text-1.0.dist-info"
    installed.mkdir(parents=True, exist_ok=True)
    (place / "verifiers.py").touch()
    metadata = "Metadata-Version: 2.1\nName: reverse-text\nVersion: 1.0\nRequires-Dist: verifiers\n"
    (installed / "METADATA").write_text(metadata)
    (installed / "top_level.txt").write_text("reverse_text\n")
    return place


def whole_job(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job of the table with the defaults of its method."""
    if job.get("kind", "training_step") != "training_step":
        return {"backend": "tinkex", **job}
    payload = job["payload"]
    defaults = TABLE["defaults"]["rl" if payload.get("method") == "rl" else "sft"]
    blocks = {
        name: {**value, **payload.get(name, {})} for name, value in defaults.items() if isinstance(value, dict)
    }
    if "max_steps" in defaults and "epochs" in payload:
        defaults = {name: value for name, value in defaults.items() if name != "max_steps"}
    whole = {**defaults, **payload, **blocks}
    return {"kind": "training_step", "backend": "tinkex", **job, "payload": whole}


def test_families_are_counted() -> None:
    """All eighteen are in the table; the page has a row for each, with what it lacks."""
    entries: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in ENTRY_POINTS:
        entries[entry.family].append(entry)
    rows = [
        f"| `{family}` | {', '.join(f'`{each.name.removeprefix(family + chr(46))}`' for each in found)} "
        f"| {'; '.join(dict.fromkeys(each.lacks for each in found if each.lacks)) or 'nothing'} |"
        for family, found in entries.items()
    ]
    whole = [family for family, found in entries.items() if all(each.jobs for each in found)]

    assert len(entries) == FAMILIES
    assert len(whole) >= WHOLE
    page = PAGE.read_text()
    assert [row for row in rows if row not in page] == []
    assert f"{len(whole)} of the {FAMILIES} families" in " ".join(page.split())
