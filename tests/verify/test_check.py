"""The rules of the checker, each on a history of a few lines: the clean one, and one with a single fault."""

import ast
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.verify.check import check, main
from tests.verify.history import History, Unreadable, read_history

Act = dict[str, Any]
Fault = Callable[[History], None]


def _act(act: str, phase: str = "ok", **facts: Any) -> Act:
    return {"act": act, "phase": phase, **facts}


def _intent(step: int) -> Act:
    first = 2 * step - 1
    return {"run_id": "r", "first": first, "last": first + 1, "kind": "step", "step": step, "digest": f"d{step}"}


def _step(fence: int, step: int) -> list[Act]:
    """The acts of one step, by its owner."""
    owner = {"job": "j", "fence": fence}
    intend = {**owner, "generation": 1, "intents": [_intent(step)]}
    record = {**owner, "generation": 1, "step": step, "loss": 1 / step, "last": 2 * step}
    return [
        _act("intend", "begin", **intend),
        _act("intend", **intend),
        _act("send", "begin", **owner, **_intent(step)),
        _act("answer", **owner, **_intent(step), loss=1 / step),
        _act("complete_step", "begin", **record),
        _act("complete_step", **record),
    ]


def _load(fence: int, steps: int) -> Act:
    runs = [{"generation": 1, "run_id": "r", "from_step": 0}] if steps else []
    spans = {"1": [[1, steps]]} if steps else {}
    last = 2 * steps if steps else None
    return _act("load", job="j", fence=fence, runs=runs, steps=spans, last_seq_id=last, checkpoints={})


def clean_history() -> History:
    """Two owners of a job of four steps: the first is killed after the second step."""
    run = {"job": "j", "fence": 1, "generation": 1, "run_id": "r", "from_step": 0}
    end = {"job": "j", "fence": 2, "outcome": "succeeded"}
    first = [
        _act("claim", job="j", fence=1, worker="a", attempt=1),
        _load(1, 0),
        _act("begin_run", "begin", **run),
        _act("begin_run", **run),
        *_step(1, 1),
        *_step(1, 2),
    ]
    second = [
        _act("reclaim", job="j", fence=1, reason="worker_absent"),
        _act("claim", job="j", fence=2, worker="b", attempt=1),
        _load(2, 2),
        *_step(2, 3),
        *_step(2, 4),
        _act("finish", "begin", **end),
        _act("finish", **end),
    ]
    asked = {"job": "j", "key": "k"}
    client = [
        _act("submit", "begin", jobs=[asked]),
        _act("submit", jobs=[{**asked, "answer": "j", "created": True}]),
    ]
    effects = [
        {"model_id": "r", "seq_id": seq_id, "kind": "optim_step", "step": seq_id // 2} for seq_id in (2, 4, 6, 8)
    ]
    return History({"first": first, "second": second, "client": client}, effects, complete=True)


def test_two_owners_that_do_as_they_should_violate_nothing() -> None:
    assert check(clean_history()) == []


def _again(party: str, act: str, **changes: Any) -> Fault:
    """An act happens once more, with changes."""

    def fault(history: History) -> None:
        acts = history.parties[party]
        found = copy.deepcopy(next(item for item in reversed(acts) if item["act"] == act and item["phase"] == "ok"))
        acts.append(found | changes)

    return fault


def _without(party: str, act: str) -> Fault:
    """An act does not happen."""

    def fault(history: History) -> None:
        acts = history.parties[party]
        history.parties[party] = [item for item in acts if item["act"] != act]

    return fault


def _effect(place: int, **changes: Any) -> Fault:
    """The dev server applies something else."""
    return lambda history: history.effects[place].update(changes)


def _submitted_twice(created: bool, answer: str) -> Fault:
    job = {"job": "other", "key": "k", "answer": answer, "created": created}
    return lambda history: history.parties["client"].append(_act("submit", jobs=[job]))


def _two_runs_in_one_place(history: History) -> None:
    begun = next(act for act in history.parties["first"] if act["act"] == "begin_run" and act["phase"] == "ok")
    history.parties["second"].append({**begun, "fence": 2, "run_id": "s"})


def _lose_steps(history: History) -> None:
    """The records of the first owner are gone, and the second has found one of its two steps."""
    _without("first", "complete_step")(history)
    acts = history.parties["second"]
    acts[acts.index(_load(2, 2))] = _load(2, 1)


def _refuse_then_accept(history: History) -> None:
    record = {"job": "j", "fence": 1, "generation": 1, "step": 2, "loss": 0.5, "last": 4}
    history.parties["first"].insert(-1, _act("complete_step", "refused", **record))


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        pytest.param("submit", _submitted_twice(created=False, answer="other"), id="two answers for one key"),
        pytest.param("submit", _submitted_twice(created=True, answer="j"), id="created twice"),
        pytest.param("submit", _without("client", "submit"), id="ran without a submit"),
        pytest.param("claim", _again("second", "claim", fence=1), id="a fence claimed by two"),
        pytest.param("claim", _without("second", "claim"), id="writes of somebody who owns nothing"),
        pytest.param("end", _again("second", "reclaim"), id="an ownership that ends twice"),
        pytest.param("finish", _again("second", "finish", fence=3), id="finished twice"),
        pytest.param("finish", _again("first", "claim", fence=3), id="claimed after the end"),
        pytest.param("finish", _without("second", "finish"), id="never finished"),
        pytest.param("owner", _again("second", "intend", phase="begin"), id="writes after its end"),
        pytest.param("owner", _refuse_then_accept, id="accepted after a refusal"),
        pytest.param("order", _again("second", "complete_step", step=6), id="a step left out"),
        pytest.param("fenced", _again("first", "complete_step", step=3, last=6), id="a record of a fenced owner"),
        pytest.param("fenced", _again("first", "intend", intents=[_intent(3)]), id="an intent of a fenced owner"),
        pytest.param(
            "fenced", _again("first", "begin_run", generation=2, run_id="s"), id="a run of a fenced owner"
        ),
        pytest.param(
            "fenced",
            lambda history: history.parties["first"].append(
                _act("commit_checkpoint", job="j", fence=1, name="step-2", path="p")
            ),
            id="a save of a fenced owner",
        ),
        pytest.param("run", _two_runs_in_one_place, id="two runs in one place"),
        pytest.param("step", _again("first", "complete_step", step=3, last=6), id="a step recorded twice"),
        pytest.param("intent", _without("second", "intend"), id="sent before it is journaled"),
        pytest.param(
            "intent", _again("second", "intend", intents=[{**_intent(4), "digest": "x"}]), id="other bytes"
        ),
        pytest.param("answer", _again("second", "answer", loss=7.0), id="another answer"),
        pytest.param("answer", _without("second", "answer"), id="recorded without an answer"),
        pytest.param("steps", _lose_steps, id="a step that nobody recorded"),
        pytest.param("effect", _effect(1, seq_id=2), id="applied twice"),
        pytest.param("effect", _effect(0, seq_id=5), id="applied out of order, and not journaled"),
        pytest.param("applied", _effect(3, step=5), id="applied as another step"),
        pytest.param("applied", _effect(3, seq_id=9), id="applied and not recorded"),
        pytest.param(
            "function",
            lambda history: history.parties["first"].append(_act("overlap", job="j", text="attempt 2")),
            id="a function of two owners",
        ),
    ],
)
def test_each_fault_breaks_its_rule(rule: str, fault: Fault) -> None:
    history = clean_history()
    fault(history)
    assert rule in {violation.rule for violation in check(history)}


def _write(folder: Path, history: History) -> list[str]:
    for party, acts in history.parties.items():
        lines = [json.dumps({"n": number, **act}) + "\n" for number, act in enumerate(acts, 1)]
        (folder / f"party-{party}.jsonl").write_text("".join(lines))
    effects = folder / "log.jsonl"
    effects.write_text("".join(json.dumps(effect) + "\n" for effect in history.effects))
    return [str(folder), "--effects", str(effects), "--complete"]


def test_the_program_says_what_it_has_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status says whether there is a violation, and which."""
    assert main(_write(tmp_path, clean_history())) == 0
    assert "4 complete_step ok\n" in capsys.readouterr().out
    faulty = clean_history()
    faulty.effects[0]["step"] = 9
    assert main(_write(tmp_path, faulty)) == 1
    assert "applied: job j: step 1 is recorded with number 2, which was applied as [9]" in capsys.readouterr().out


def test_a_history_with_missing_lines_proves_nothing(tmp_path: Path) -> None:
    """The last line of a process that was killed may be cut short; nothing else may be missing."""
    arguments = _write(tmp_path, clean_history())
    path = tmp_path / "party-first.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, '{"n": 99, "act"']))
    assert main(arguments) == 0
    for kept in (lines[1:], [lines[0], "{\n", *lines[1:]]):
        path.write_text("".join(kept))
        assert main(arguments) == 2
    with pytest.raises(Unreadable, match="nobody"):
        read_history(tmp_path / "elsewhere")


def test_it_shares_no_code_with_the_product() -> None:
    """The checker imports the standard library and its own modules alone."""
    folder = Path(__file__).parent
    own = {f"tests.verify.{path.stem}": path for path in folder.glob("*.py")}
    unread, read = ["tests.verify.check"], set[str]()
    while unread:
        name = unread.pop()
        read.add(name)
        for node in ast.walk(ast.parse(own[name].read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for imported in names:
                assert imported in own or imported.partition(".")[0] in sys.stdlib_module_names, (name, imported)
            unread += [imported for imported in names if imported in own and imported not in read]
    assert len(read) > 3
