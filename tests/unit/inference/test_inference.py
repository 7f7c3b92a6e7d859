"""Inference jobs: every prompt is completed once, whatever happens in between."""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from crucible import Completion, FinishReason, Prompt
from crucible.errors import BackendUnavailable, InvalidRequest
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.errors import DataChanged, HandOver, InvalidJob, UnreadableJournal
from nsai_work.inference import pin_prompts
from nsai_work.payloads import DataSource, Inference
from tests.inference_rig import Echo, JobLog, rows, run, write_prompts


def test_one_prompt_gives_its_completion() -> None:
    """The result is the completion as JSON."""
    prompt = Prompt(messages=[{"role": "user", "content": "7"}])
    result = run(Inference(prompt=prompt), Echo())["result"]
    assert Completion.model_validate(result).text == "7"


def test_a_file_is_answered_in_its_order_and_n_at_a_time(tmp_path: Path) -> None:
    """Answers arrive in any order, and are sorted by prompt at the end."""
    output, backend = tmp_path / "answers.jsonl", Echo(waits_for=4)

    done = run(Inference(input=write_prompts(tmp_path), output=str(output), concurrency=4), backend)

    assert [row["id"] for row in rows(output)] == [f"p{n}" for n in range(1, 31)]
    assert [row["completion"]["choices"][0]["message"]["content"] for row in rows(output)] == [
        str(n) for n in range(1, 31)
    ]
    assert backend.most_at_once == 4
    assert done["result"]["succeeded"] == 30
    assert done["result"]["completion_tokens"] == 60
    assert done["events"][0] == {"done": 0, "total": 30, "failed": 0}
    assert done["events"][-1] == {"done": 30, "total": 30, "failed": 0}


@pytest.mark.parametrize("reason", [*FinishReason, None])
def test_a_row_that_was_cut_or_refused_is_counted_as_such(tmp_path: Path, reason: FinishReason | None) -> None:
    """Each reason by its name, in the result and in an event; an attempt that continues counts the same."""
    ends = {"7": reason, "9": reason}
    backend = Echo(ends=lambda text: ends.get(text, FinishReason.STOP))
    payload = Inference(input=write_prompts(tmp_path), output=str(tmp_path / "answers.jsonl"))
    log = JobLog()
    done = run(payload, backend, log=log)

    name = "none" if reason is None else reason.value
    is_complete = reason in (FinishReason.STOP, FinishReason.TOOL_CALLS)
    assert done["result"]["incomplete"] == (0 if is_complete else 2)
    assert done["result"]["finish_reasons"] == ({"stop": 30} if reason == "stop" else {"stop": 28, name: 2})
    expected = [] if is_complete else [{"answers": 30, "finish_reasons": {name: 2}}]
    assert done["incomplete"] == expected
    again = run(payload, Echo(), log=log)
    assert again["result"] == done["result"]
    assert again["incomplete"] == expected


def test_a_single_answer_that_was_cut_is_told() -> None:
    """By an event; the result has the reason itself."""
    prompt = Prompt(messages=[{"role": "user", "content": "7"}])
    done = run(Inference(prompt=prompt), Echo(ends=lambda text: FinishReason.LENGTH))

    assert done["incomplete"] == [{"answers": 1, "finish_reasons": {"length": 1}}]
    assert run(Inference(prompt=prompt), Echo())["incomplete"] == []


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    """Answers count that an earlier owner kept, whether or not the output is there."""
    output, source = tmp_path / "answers.jsonl", write_prompts(tmp_path)
    payload, log = Inference(input=source, output=str(output), concurrency=3), JobLog()
    run(payload, Echo(), log=log)
    whole = output.read_bytes()
    output.unlink()
    for line in (1, 2, 6, 30):
        del log.kept[line]

    backend = Echo()
    done = run(payload, backend, log=log)

    assert sorted(backend.asked, key=int) == ["1", "2", "6", "30"]
    assert output.read_bytes() == whole
    assert done["result"]["rows"] == 30


def test_a_batch_without_an_output_has_its_answers_in_the_store(tmp_path: Path) -> None:
    """Nothing is written to the disk."""
    source, log = write_prompts(tmp_path), JobLog()
    done = run(Inference(input=source), Echo(), log=log)

    assert (done["result"]["output"], done["result"]["succeeded"]) == (None, 30)
    assert [row["line"] for row in log.rows] == [*range(1, 31)]
    assert [*tmp_path.iterdir()] == [tmp_path / "prompts.jsonl"]


def test_more_answers_than_a_page_are_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next owner, and for the output."""
    monkeypatch.setattr("nsai_work.inference.run.PAGE", 7)
    output, log = tmp_path / "answers.jsonl", JobLog()
    payload = Inference(input=write_prompts(tmp_path), output=str(output))
    run(payload, Echo(), log=log)

    again = Echo()
    done = run(payload, again, log=log)

    assert (again.asked, done["result"]["rows"]) == ([], 30)
    assert rows(output) == log.rows


def test_a_row_at_fault_keeps_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    """The next attempt does not repeat the prompt either."""
    output, source = tmp_path / "answers.jsonl", write_prompts(tmp_path)
    backend = Echo(lambda text: InvalidRequest.of("prompt", text, "no sevens") if "7" in text else None)
    payload, log = Inference(input=source, output=str(output)), JobLog()
    done = run(payload, backend, log=log)
    assert done["result"]["failed"] == 3
    assert [row["id"] for row in rows(output) if "error" in row] == ["p7", "p17", "p27"]
    assert rows(output)[6]["error"]["code"] == "invalid_request"

    again = Echo()
    run(payload, again, log=log)
    assert again.asked == []


def test_a_service_that_is_away_ends_the_attempt_and_keeps_what_is_done(tmp_path: Path) -> None:
    """The job is retried later; no prompt is completed twice."""
    output, source = tmp_path / "answers.jsonl", write_prompts(tmp_path)
    payload, log = Inference(input=source, output=str(output), concurrency=2), JobLog()
    first = Echo(lambda text: BackendUnavailable("away") if text == "20" else None)
    with pytest.raises(BackendUnavailable):
        run(payload, first, log=log)
    kept = {row["id"] for row in log.rows}
    assert kept
    assert not output.exists()

    second = Echo()
    run(payload, second, log=log)

    assert not {f"p{text}" for text in second.asked} & kept
    assert len(rows(output)) == 30


def test_a_stop_ends_it_and_the_next_owner_goes_on(tmp_path: Path) -> None:
    """As in every job kind."""
    output, source, control = tmp_path / "answers.jsonl", write_prompts(tmp_path), Control()
    payload, log = Inference(input=source, output=str(output), concurrency=2), JobLog()

    def stop(text: str) -> None:
        if text == "9":
            control.stop(StopReason.SHUTDOWN)

    with pytest.raises(HandOver):
        run(payload, Echo(stop), control, log)
    second = Echo()
    run(payload, second, log=log)
    assert len(rows(output)) == 30
    assert len(second.asked) < 30


def test_answers_to_other_prompts_are_not_taken_for_ours(tmp_path: Path) -> None:
    """Each answer has its prompt's digest."""
    log = JobLog()
    run(Inference(input=write_prompts(tmp_path)), Echo(), log=log)
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "99"}\n')
    with pytest.raises(InvalidJob, match=r"line 1: the job has the answer to another prompt"):
        run(Inference(input=pin_prompts(DataSource(path=str(other)))), Echo(), log=log)


DAMAGE = {
    "rubbish": b"rubbish",
    "no JSON": zlib.compress(b"{"),
    "no object": zlib.compress(b"[]"),
    "other fields": zlib.compress(b'{"line": "1"}'),
    "another line": zlib.compress(b'{"line": 2, "prompt_sha256": "%s"}'),
    "deep": zlib.compress(b"[" * 100_000),
}


@pytest.mark.parametrize("data", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_answer_is_named(tmp_path: Path, data: bytes) -> None:
    """Nothing is sent, and the row stays."""
    payload, log, again = Inference(input=write_prompts(tmp_path)), JobLog(), Echo()
    run(payload, Echo(), log=log)
    log.kept[1] = replace(log.kept[1], data=data)

    with pytest.raises(UnreadableJournal, match=r"nsai_answers, row of line 1: "):
        run(payload, again, log=log)
    assert again.asked == []


def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    """Its content is pinned at submit."""
    source = write_prompts(tmp_path)
    Path(source.path).write_text('{"prompt": "1"}\n')
    with pytest.raises(DataChanged, match="submit a new job"):
        run(Inference(input=source, output=str(tmp_path / "answers.jsonl")), Echo())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "does not exist"),
        ("", "holds no prompt"),
        ("\n\n", "holds no prompt"),
        ('{"prompt": "1"}\n{"prompt"\n', "line 2: is not JSON"),
        ('["1"]\n', "line 1: is a JSON list"),
        ('{"prompt": ""}\n', "line 1: prompt is not allowed here"),
        ('{"options": {}}\n', "line 1: has neither messages nor prompt"),
        ('{"prompt": "1", "options": {"temperature": -1}}\n', "line 1.options.temperature"),
        ('{"messages": [{"role": "robot", "content": "x"}]}\n', "line 1.messages.0.role"),
        ('{"prompt": "1", "promt": 1}\n', "line 1.promt: unknown field"),
        ('{"prompt": "\\ud800"}\n', "line 1: messages[0].content: must not contain a lone surrogate"),
        ('{"prompt": "1", "prompt": "2"}\n', "line 1: has the field 'prompt' twice; leave one of them out"),
        ('{"prompt": "1", "options": {"seed": 1, "seed": 2}}\n', "line 1: has the field 'seed' twice"),
    ],
    ids=[
        *("missing", "empty", "blank", "broken", "list", "no text", "nothing", "option", "role", "unknown", "half"),
        *("twice", "option twice"),
    ],
)
def test_bad_input_names_line_and_field(tmp_path: Path, content: str | None, complaint: str) -> None:
    """At submit, before anything is stored or sent."""
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidJob) as caught:
        pin_prompts(DataSource(path=str(path)))
    assert complaint in caught.value.message


def test_a_prompt_of_a_file_names_no_job(tmp_path: Path) -> None:
    """Its model is that of the batch: the error says so, with the line."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "1"}\n{"prompt": "2", "options": {"model": {"job": "a", "checkpoint": "best"}}}\n')

    with pytest.raises(InvalidJob, match=r"line 2: options\.model: .*\"job\": \"a\".* set payload\.model to"):
        pin_prompts(DataSource(path=str(path)))


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """Prompt files are UTF-8."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('{"prompt": "1"}'.encode("utf-16"))

    with pytest.raises(InvalidJob, match="line 1: is not UTF-8 at byte 0"):
        pin_prompts(DataSource(path=str(path)))


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    """The error is the same as for an unreadable file."""
    with pytest.raises(InvalidJob, match="cannot be read"):
        pin_prompts(DataSource(path=str(tmp_path / ("a" * 300))))


def test_metadata_of_a_prompt_comes_back_with_its_answer(tmp_path: Path) -> None:
    """Beside what the backend adds."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1", "metadata": {"shelf": 4}}\n')
    output = tmp_path / "answers.jsonl"
    run(Inference(input=pin_prompts(DataSource(path=str(tmp_path / "prompts.jsonl"))), output=str(output)), Echo())
    assert rows(output)[0]["completion"]["metadata"] == {"shelf": 4}


def test_all_bad_prompts_are_reported_at_once(tmp_path: Path) -> None:
    """With their lines; the first twenty, and how many there are."""
    path = tmp_path / "prompts.jsonl"
    good, bad = '{"prompt": "a", "options": {"model": "m"}}\n', '{"prompt": "a", "options": {"temperature": -1}}\n'
    path.write_text(
        "\n" + "".join(bad if row in (4, 9, 30) else good for row in range(1, 41)) + '{"prompt": "a"}\n'
    )

    with pytest.raises(
        InvalidJob, match=r"prompts\.jsonl: 4 of 41 rows are bad:\nline 5\S*temperature: "
    ) as caught:
        pin_prompts(DataSource(path=str(path)), require_model=True)
    assert caught.value.details["lines"] == [5, 10, 31, 42]
    assert "\nline 42: has no model; set options.model" in caught.value.message

    path.write_text(bad * 50)
    with pytest.raises(InvalidJob, match=r"\n\.\.\. and 30 more") as caught:
        pin_prompts(DataSource(path=str(path)))
    assert caught.value.details["lines"] == list(range(1, 21))
    assert caught.value.details["count"] == 50
