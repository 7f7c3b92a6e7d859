"""A batch touches no file that is not its own, and never waits for one in the event loop."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsai_work.errors import InvalidJob
from nsai_work.inference import pin_prompts, refuse_existing
from nsai_work.inference.output import OutputFile
from nsai_work.payloads import DataSource, Inference
from tests.inference_rig import Echo, JobLog, run, write_prompts
from tests.odd_files import make_odd_file

CONTENTS = {
    "text": b"hello\n",
    "text without a last newline": b"hello",
    "nothing": b"",
    "other rows": b'{"a": 1}\n',
    "answers of another job": b'{"line": 1, "prompt_sha256": "0", "error": {}}\n',
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_an_output_that_exists_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """It is refused at submit and when the job runs, whatever it holds."""
    output = tmp_path / "answers.jsonl"
    output.write_bytes(content)
    payload, backend = Inference(input=write_prompts(tmp_path), output=str(output)), Echo()

    with pytest.raises(InvalidJob, match="exists already"):
        refuse_existing(payload)
    with pytest.raises(InvalidJob, match="exists already"):
        run(payload, backend)

    assert output.read_bytes() == content
    assert backend.asked == []


@pytest.mark.parametrize("content", [b"hello\n", b"", b'{"a": 1}\n'])
def test_a_file_that_took_the_name_meanwhile_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """The answers are paid for, and kept: nsai-work results has them."""
    output, log = tmp_path / "answers.jsonl", JobLog()
    payload = Inference(input=write_prompts(tmp_path), output=str(output))

    def take_name(text: str) -> None:
        output.write_bytes(content)

    with pytest.raises(InvalidJob, match="exists already"):
        run(payload, Echo(take_name), log=log)
    assert output.read_bytes() == content
    assert len(log.rows) == 30
    assert sorted(tmp_path.iterdir()) == [output, tmp_path / "prompts.jsonl"]


def test_the_output_of_an_owner_that_died_right_after_is_ours(tmp_path: Path) -> None:
    """It has the same content."""
    output, log = tmp_path / "answers.jsonl", JobLog()
    payload = Inference(input=write_prompts(tmp_path), output=str(output))
    first = run(payload, Echo(), log=log)

    assert run(payload, Echo(), log=log)["result"] == first["result"]


def test_a_file_system_without_links_has_the_output_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves what is there alone."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("nsai_work.inference.output.os.link", refuse)
    output = tmp_path / "answers.jsonl"
    for _ in range(2):
        with OutputFile(output) as file:
            file.write([b"first"])
            if not output.exists():
                file.publish()
                continue
            with pytest.raises(InvalidJob, match="exists already"):
                file.publish()
    assert output.read_bytes() == b"first\n"
    assert [*tmp_path.iterdir()] == [output]


def test_a_file_beside_the_output_is_left_alone(tmp_path: Path) -> None:
    """The draft takes no name that is in use."""
    output = tmp_path / "answers.jsonl"
    neighbors = [tmp_path / f"answers.jsonl{end}" for end in (".ordered", ".tmp", ".partial", "~")]
    for path in neighbors:
        path.write_text("mine")

    run(Inference(input=write_prompts(tmp_path), output=str(output)), Echo())

    assert [path.read_text() for path in neighbors] == ["mine"] * 4
    assert sorted(tmp_path.iterdir()) == sorted([output, tmp_path / "prompts.jsonl", *neighbors])


@pytest.mark.parametrize("way", ["same path", "symlink", "hard link", "detour"])
def test_an_output_that_is_the_input_is_refused(tmp_path: Path, way: str) -> None:
    """By the file, not by its name."""
    source = write_prompts(tmp_path)
    output = Path(source.path)
    if way == "detour":
        (tmp_path / "a").mkdir()
        output = tmp_path / "a" / ".." / "prompts.jsonl"
    elif way != "same path":
        output = tmp_path / "link.jsonl"
        output.symlink_to(source.path) if way == "symlink" else output.hardlink_to(source.path)
    content = Path(source.path).read_bytes()
    payload = Inference(input=source, output=str(output))

    with pytest.raises(InvalidJob, match="is the input file"):
        refuse_existing(payload)
    with pytest.raises(InvalidJob, match="is the input file"):
        run(payload, Echo())
    assert Path(source.path).read_bytes() == content


def test_an_output_in_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    """Nothing is sent."""
    payload = Inference(input=write_prompts(tmp_path), output=str(tmp_path / "missing" / "answers.jsonl"))
    backend = Echo()
    with pytest.raises(InvalidJob, match="cannot be written"):
        run(payload, backend)
    assert backend.asked == []


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device", "symlink loop", "dangling symlink"])
def test_an_output_or_input_that_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """Also if it took the place of the job's own file. Nothing waits for its other end."""
    path, log = tmp_path / "odd", JobLog()
    payload = Inference(input=write_prompts(tmp_path), output=str(path))
    run(payload, Echo(), log=log)
    path.unlink()
    with make_odd_file(kind, path) as odd:
        with pytest.raises(InvalidJob):
            run(payload.model_copy(update={"output": str(odd)}), Echo())
        with pytest.raises(InvalidJob):
            run(payload.model_copy(update={"output": str(odd)}), Echo(), log=log)
        with pytest.raises(InvalidJob, match=r"is a directory|not a regular file|does not exist"):
            pin_prompts(DataSource(path=str(odd)))


def test_a_slow_disk_does_not_hold_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read and written in a thread."""
    threads: set[bool] = set()
    for name in ("access", "fsync", "link"):
        original = getattr(os, name)

        def noted(*arguments: Any, original: Callable[..., Any] = original, **options: Any) -> Any:
            threads.add(threading.current_thread() is threading.main_thread())
            return original(*arguments, **options)

        monkeypatch.setattr(f"nsai_work.inference.output.os.{name}", noted)
    payload = Inference(input=write_prompts(tmp_path, 5), output=str(tmp_path / "answers.jsonl"))
    threads.clear()

    run(payload, Echo())

    assert threads == {False}
