"""Rows of every form train on the dev server in one job, a mixture; bad data is refused at submit."""

import gzip
import json
import math
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Cli
from tests.pictures import data_url, png, written

GOLDEN = Path(__file__).parents[1] / "unit" / "data" / "golden" / "forms.json"


def write(path: Path, *rows: object) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_each_form_train_in_one_mixture(
    cli: Cli, tmp_path: Path, job: dict[str, Any], job_file: Callable[[Any], Path]
) -> None:
    """One source for each form; the result counts what was left out, split and unused."""
    cases = {name: case["row"] for name, case in json.loads(GOLDEN.read_text()).items() if "data" not in case}
    sources = [{"path": write(tmp_path / f"{place}.jsonl", row).name} for place, row in enumerate(cases.values())]
    packed = gzip.compress(json.dumps([{"text": "abc"}, {"text": ""}, {"text": "x" * 400}]).encode())
    (tmp_path / "packed.json.gz").write_bytes(packed)
    sources.append({"path": "packed.json.gz", "weight": 3.0, "format": "text"})
    data = {"sources": sources, "on_bad_row": "skip", "on_long": "skip"}
    job["payload"] |= {"data": data, "batch_size": len(sources), "max_steps": 4, "max_tokens": 300}
    job["backend"] = "tinkex"
    with cli.dev_server():
        done = cli.json("run", job_file(job))
        events = [json.loads(line) for line in cli.run("watch", done["id"], "--json").stdout.splitlines()]
        result = done["result"]

    assert result["steps"] == 4
    assert (result["bad_rows"], result["skipped_rows"], result["truncated_rows"]) == (1, 1, 0)
    assert result["unused_fields"] == ["id", "parallel_tool_calls"]
    told = {event["name"]: event["data"] for event in events}
    assert told["training.bad_rows"]["sources"] == {f"payload.data.sources[{len(cases)}].path": [1]}
    assert told["training.rows_skipped"]["rows"] == 1
    labels = [name for row in cases.values() for name in ("id", "parallel_tool_calls") if row.get(name) is not None]
    assert sorted(labels) == ["id", "parallel_tool_calls"]
    assert told["training.fields_unused"] == {"rows": len(labels), "fields": sorted(labels)}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"sources": [{"path": "a.jsonl", "weight": 0}]}, "payload.data.sources.0.weight: Input should be greater"),
        (
            {"sources": [{"path": "a.jsonl"}, {"path": "a.jsonl", "weight": 1e-9}], "on_long": "skip"},
            "payload.data.sources[1].weight: 1e-09 is not allowed; its share of the mixture is below 1 in 65536",
        ),
        ({"path": "a.jsonl", "ignore": ["messages"]}, "line 1: fits no format: its fields are none"),
        ({"path": "a.jsonl", "sources": [{"path": "a.jsonl"}]}, "set either path, job or sources"),
        ({"path": "a.jsonl", "train_on": "assistant"}, "payload.data.train_on: Input should be"),
        ({"path": "a.jsonl", "on_log": "cut"}, "payload.data.on_log: unknown field; did you mean on_long?"),
        (
            {"path": "a.jsonl", "on_long": "error"},
            "line 2: has 94 tokens, and the limit is 40 (payload.max_tokens)",
        ),
        ({"path": "a.jsonl"}, "line 2: the first token with a loss weight is 93, and the example is cut after 40"),
        ({"path": "a.jsonl", "format": "alpaca"}, "messages is an unknown field"),
        ({"path": "a.jsonl", "train_on": "customized"}, "2 of 2 rows are bad"),
        ({"path": "endless.jsonl"}, "endless.jsonl, line 1: is longer than 16 MiB"),
    ],
)
def test_bad_data_is_refused_at_submit(
    cli: Cli,
    tmp_path: Path,
    job: dict[str, Any],
    job_file: Callable[[Any], Path],
    data: dict[str, Any],
    complaint: str,
) -> None:
    """With its field; nothing is stored."""
    talks = [[{"role": "user", "content": "a" * size}, {"role": "assistant", "content": "b"}] for size in (5, 89)]
    write(tmp_path / "a.jsonl", *({"messages": talk} for talk in talks))
    (tmp_path / "endless.jsonl").touch()
    os.truncate(tmp_path / "endless.jsonl", 5 * 1000**3)
    job["payload"] |= {"data": data, "max_tokens": 40}
    done = cli.run("submit", job_file(job))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert cli.stored() == []


def test_bad_rows_of_all_files_are_refused_at_once(
    cli: Cli, tmp_path: Path, job: dict[str, Any], job_file: Callable[[Any], Path]
) -> None:
    """Of each source of a mixture, and of the evaluation."""
    for name, count in (("a", 1), ("b", 30), ("c", 2)):
        write(tmp_path / f"{name}.jsonl", *[{"messages": []}] * count)
    job["payload"] |= {"data": {"sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}, "max_steps": 2}
    job["payload"] |= {"eval": {"data": {"path": "c.jsonl"}}}
    done = cli.run("submit", job_file(job))
    assert done.returncode == 2
    assert f"payload.data.sources[0].path: {tmp_path / 'a.jsonl'}, line 1: messages" in done.stderr
    assert f"payload.data.sources[1].path: {tmp_path / 'b.jsonl'}: 30 of 30 rows are bad" in done.stderr
    assert "... and 10 more" in done.stderr
    assert f"payload.eval.data.path: {tmp_path / 'c.jsonl'}: 2 of 2 rows are bad" in done.stderr
    assert cli.stored() == []


def test_images_beside_the_data_are_shipped(
    cli: Cli, tmp_path: Path, job: dict[str, Any], job_file: Callable[[Any], Path]
) -> None:
    """The job trains after its folder is deleted; a backend that takes no images refuses it by name."""
    folder = tmp_path / "pictures"
    contents = [png(30, 30, shade) for shade in range(3)]
    for number, content in enumerate(contents):
        written(folder / "images" / f"{number}.png", content)
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "path": f"images/{number}.png"}]},
                {"role": "assistant", "content": f"Shade {number}."},
            ]
        }
        for number in range(3)
    ]
    write(folder / "a.jsonl", *rows)
    job["payload"] |= {"data": {"path": str(folder / "a.jsonl")}, "batch_size": 3, "max_steps": 2}
    refused = cli.run("submit", job_file(job))
    assert refused.returncode == 2
    assert "line 1: has an image, and the backend 'fake' takes none in training" in refused.stderr
    assert cli.stored() == []
    job["backend"] = "tinkex"
    with cli.dev_server():
        job_id = cli.json("submit", job_file(job))["id"]
        shutil.rmtree(folder)
        result = cli.json("run", job_id)["result"]
    assert result["steps"] == 2
    assert result["tokens"] == 2 * 3 * (5 + 2 + 8 + 2 - 1)


def test_an_unchecked_file_is_the_workers(
    cli: Cli, tmp_path: Path, job: dict[str, Any], job_file: Callable[[Any], Path]
) -> None:
    """The job is accepted, and fails at its worker."""
    write(tmp_path / "a.jsonl", {"messages": []})
    job["payload"]["data"] = {"path": "a.jsonl"}
    failed = cli.json("run", "--no-check-data", job_file(job), code=1)
    assert f"{tmp_path / 'a.jsonl'}, line 1: messages" in failed["error"]["message"]
    assert failed["error"]["details"]["path"] == str(tmp_path / "a.jsonl")
    assert cli.run("submit", job_file(job)).returncode == 2
    assert cli.json("submit", "--no-check-data", job_file(job))["id"]


CHANGING: dict[str, dict[str, Any]] = {
    "payload.data.path": {"data": {"path": "changing.jsonl"}},
    "payload.eval.data.path": {"eval": {"data": {"path": "changing.jsonl"}}},
    "payload.input.path": {"input": {"path": "changing.jsonl"}, "model": "tiny-lm"},
}


@pytest.mark.parametrize("field", CHANGING)
def test_a_file_that_changes_while_it_is_read_is_refused(
    cli: Cli, tmp_path: Path, job: dict[str, Any], job_file: Callable[[Any], Path], field: str
) -> None:
    """Another program writes it all the time: nothing is stored, neither the job nor the file."""
    row = {"prompt": "a"} if "input" in field else {"text": "a"}
    path = write(tmp_path / "changing.jsonl", *[row] * 100)
    if "input" in field:
        job = {"kind": "inference", "backend": "fake", "payload": {}}
    job["payload"] |= CHANGING[field]
    ended = threading.Event()

    def append() -> None:
        line = path.read_bytes().partition(b"\n")[0] + b"\n"
        with path.open("ab", buffering=0) as writer:
            while not ended.is_set():
                writer.write(line)

    writer = threading.Thread(target=append)
    writer.start()
    try:
        done = cli.run("submit", job_file(job))
    finally:
        ended.set()
        writer.join()
    assert done.returncode == 2, done.stderr
    assert f"{field}: {path}: changed while it was read; submit it when it is complete" in done.stderr
    assert cli.stored() == []
    write(path, row)
    assert cli.run("submit", job_file(job)).returncode == 0


def test_pairs_with_images_train_where_images_are_taken(
    cli: Cli, tmp_path: Path, job: dict[str, Any], job_file: Callable[[Any], Path]
) -> None:
    """In the prompt, beside the data or in the row, and in whole conversations; the reference sees them too, so
    that the first loss is that of equal models. Elsewhere each row is refused by name."""

    def ask(source: dict[str, str]) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image", **source}, {"type": "text", "text": "Dark?"}]}

    def shown(shades: tuple[int, int]) -> list[Any]:
        written(tmp_path / "images" / "a.png", png(30, 30, shades[0]))
        asked, again = ask({"path": "images/a.png"}), ask({"url": data_url(png(40, 30, shades[1]))})
        whole = [[again, {"role": "assistant", "content": text}] for text in ("Yes.", "No.")]
        return [
            {"prompt": [asked], "chosen": "Yes.", "rejected": "No."},
            {"chosen": whole[0], "rejected": whole[1]},
        ]

    job["payload"] |= {"method": "dpo", "data": {"path": "pairs.jsonl"}, "batch_size": 2, "max_steps": 3}
    write(tmp_path / "pairs.jsonl", *shown((10, 20)))
    refused = cli.run("submit", job_file(job))
    assert refused.returncode == 2
    assert "2 of 2 rows are bad" in refused.stderr
    assert "line 1: has an image, and the backend 'fake' takes none in training" in refused.stderr
    assert cli.stored() == []
    job["backend"] = "tinkex"
    job["payload"]["eval"] = {"every": 2, "data": {"path": "pairs.jsonl"}}
    losses = []
    with cli.dev_server():
        for shades in ((10, 20), (200, 20), (10, 200)):
            write(tmp_path / "pairs.jsonl", *shown(shades))
            job_id = cli.json("submit", job_file(job))["id"]
            (tmp_path / "images" / "a.png").unlink()
            assert cli.json("run", job_id)["result"]["steps"] == 3
            losses.append([step["loss"] for step in cli.json("steps", job_id)])
    assert [each[0] for each in losses] == pytest.approx([math.log(2)] * 3)
    assert losses[0][2] < losses[0][0]
    assert len({each[1] for each in losses}) == 3
