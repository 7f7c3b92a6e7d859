"""A job file with a value that some layer cannot hold is refused at submit, with the field; nothing is stored."""

import os
from pathlib import Path

import pytest

from crucible.errors import CrucibleError
from nsai_work import Settings, submit_many
from nsai_work.cli import main
from nsai_work.client.connections import close_connections, job_store
from nsai_work.client.jobfile import load_jobs

JOB = "kind: tool_call\nbackend: fake\n"
NOOP = JOB + "payload: {command: noop}\n"
POISON = {
    "NaN in metadata": (NOOP + "metadata: {best_so_far: .nan}\n", r"metadata\.best_so_far: nan is not valid JSON"),
    "NaN in arguments": (JOB + "payload: {command: noop, arguments: {x: [.nan]}}\n", r"arguments\.x\[0\]: nan"),
    "infinity in metadata": (NOOP + "metadata: {x: .inf}\n", r"metadata\.x: inf is not valid JSON"),
    "a deadline after the year 9999 in UTC": (
        NOOP + 'constraints: {deadline: "9999-12-31T23:59:59-01:00"}\n',
        r"constraints\.deadline: ",
    ),
    "a start before the year 1 in UTC": (
        NOOP + 'constraints: {not_before: "0001-01-01T00:00:00+01:00"}\n',
        r"constraints\.not_before: ",
    ),
    "65 bits": (NOOP + "metadata: {x: 18446744073709551616}\n", r"metadata\.x: integers have at most 64 bits"),
    "a control character in the name": (NOOP + 'name: "a\\e[2J"\n', r"name: "),
    "a control character in the id": (NOOP + 'id: "a\\e[2J"\n', r"line 4: id: "),
    "a lone surrogate": ('{"kind": "composite", "payload": {}, "metadata": {"x": "\\ud800"}}', "lone surrogate"),
    "a cost limit that nothing enforces": (NOOP + "resources: {max_cost_usd: 0.0}\n", r"resources\.max_cost_usd: "),
}


@pytest.mark.parametrize(("text", "complaint"), POISON.values(), ids=POISON)
def test_poison_is_refused_at_submit_with_its_field(text: str, complaint: str, tmp_path: Path) -> None:
    """So that no list of jobs can fail because of it."""
    file = tmp_path / "job.yaml"
    file.write_text(text)
    settings = Settings(home=tmp_path / "home")
    try:
        with pytest.raises(CrucibleError, match=complaint):
            submit_many(load_jobs(file), settings)
        assert not (tmp_path / "home" / "nsai-work.db").exists() or job_store(settings).list_jobs() == []
    finally:
        close_connections()


@pytest.mark.parametrize("field", ["id", "name"])
def test_a_control_character_does_not_reach_the_terminal(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of ``submit``: it names the field, and shows the value escaped."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path / "home"))
    file = tmp_path / "job.yaml"
    file.write_text(NOOP + f'{field}: "a\\e[2J"\n')

    monkeypatch.setattr("sys.argv", ["nsai-work", "submit", str(file)])
    with pytest.raises(SystemExit) as end:
        main()

    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert f"line 4: {field}: " in err
    assert "x1b[2J" in err
    assert "\x1b" not in err
    assert not (tmp_path / "home" / "nsai-work.db").exists()


@pytest.mark.parametrize("field", ["data", "input", "output"])
def test_a_fifo_in_a_job_file_is_refused_at_submit(field: str, tmp_path: Path) -> None:
    """Whichever file of a job it stands for; nothing waits for its writer."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "options": {"model": "m"}}\n')
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    paths = {"data": "data.jsonl", "input": "prompts.jsonl", "output": "answers.jsonl"} | {field: "pipe"}
    file = tmp_path / "job.yaml"
    if field == "data":
        payload = f"{{base_model: tiny-lm, data: {{path: {paths['data']}}}, max_steps: 1}}"
        file.write_text(f"kind: training_step\nbackend: fake\npayload: {payload}\n")
    else:
        payload = f"{{input: {{path: {paths['input']}}}, output: {paths['output']}}}"
        file.write_text(f"kind: inference\nbackend: fake\npayload: {payload}\n")
    try:
        with pytest.raises(CrucibleError, match=rf"payload\.{field}.*pipe"):
            submit_many(load_jobs(file), Settings(home=tmp_path / "home"))
    finally:
        close_connections()
