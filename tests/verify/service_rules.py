"""Rules of the service: requests, their answers, and what the dev server applied. Standard library only."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.verify.history import Act, History, Owner, Violation, name_of, owner_of
from tests.verify.journal_rules import EndedJob, ended_jobs


def _journaled(history: History) -> Iterator[tuple[str, Act, Act]]:
    for party, act in history.acts("intend", "plan_checkpoint"):
        for intent in act["intents"]:
            yield party, act, intent


def check_intents(history: History) -> Iterator[Violation]:
    """A sequence number of a run means one request, whoever sends it. What changes the run is in the journal before
    it is sent: its owner has written it, or has found it there."""
    meanings: dict[tuple[str, int], set[tuple[Any, ...]]] = defaultdict(set)
    for _, _, intent in _journaled(history):
        meanings[intent["run_id"], intent["first"]].add(_meaning(intent))
    for acts in history.parties.values():
        journaled: dict[Owner, set[tuple[str, int]]] = defaultdict(set)
        found_up_to: dict[tuple[Owner, str], int] = {}
        for act in acts:
            if act["act"] in ("intend", "plan_checkpoint") and act["phase"] == "ok":
                journaled[owner_of(act)] |= {(intent["run_id"], intent["first"]) for intent in act["intents"]}
            if act["act"] == "load" and act["runs"]:
                found_up_to[owner_of(act), act["runs"][-1]["run_id"]] = act["last_seq_id"] or 0
            if act["act"] != "send" or act["phase"] != "begin":
                continue
            key = (act["run_id"], act["first"])
            meanings[key].add(_meaning(act))
            # a forward pass changes nothing: that of a reference model is not journaled
            if act["kind"] == "forward" or key in journaled[owner_of(act)]:
                continue
            if act["last"] > found_up_to.get((owner_of(act), act["run_id"]), 0):
                yield Violation("intent", f"run {key[0]}", f"number {key[1]} was sent before it was journaled")
    for (run_id, first), found in meanings.items():
        if len(found) > 1:
            yield Violation("intent", f"run {run_id}", f"number {first} is {len(found)} requests: {sorted(found)}")


def _meaning(intent: Act) -> tuple[Any, ...]:
    return (intent["last"], intent["kind"], intent["step"], intent["digest"])


def check_answers(history: History) -> Iterator[Violation]:
    """A request has one answer, however often it is sent; nothing is recorded that was not answered."""
    answers: dict[tuple[str, int], set[str]] = defaultdict(set)
    run_ids: dict[tuple[str, int], str] = {}
    for _, act in history.acts("begin_run"):
        run_ids[act["job"], act["generation"]] = act["run_id"]
    for party, acts in history.parties.items():
        answered: set[tuple[str, int]] = set()
        for act in acts:
            if act["act"] == "answer":
                answered.add((act["run_id"], act["last"]))
                value = {name: act[name] for name in ("loss", "logprobs", "path") if name in act}
                answers[act["run_id"], act["first"]].add(json.dumps(value))
            if act["act"] == "complete_step" and act["phase"] == "begin" and act["last"]:
                run_id = run_ids.get((act["job"], act["generation"]))
                if (run_id, act["last"]) not in answered:
                    text = f"step {act['step']} was recorded by {party} without an answer"
                    yield Violation("answer", name_of(owner_of(act)), text)
    for (run_id, first), values in answers.items():
        if len(values) > 1:
            yield Violation("answer", f"run {run_id}", f"number {first} was answered with {sorted(values)}")


def check_effects(history: History) -> Iterator[Violation]:
    """The dev server applied each number of a run once and in order, what was recorded and, in the last run of a
    job, nothing else."""
    if not history.effects:
        return
    of_run: dict[str, list[Act]] = defaultdict(list)
    for effect in history.effects:
        if effect.get("model_id") is not None and effect.get("seq_id") is not None:
            of_run[effect["model_id"]].append(effect)
    intended = {(intent["run_id"], intent["last"]) for _, _, intent in _journaled(history)}
    ours = {run_id for run_id, _ in intended}
    for run_id in ours & of_run.keys():
        yield from _check_run_effects(run_id, of_run[run_id], intended)
    seq_ids = {
        (act["job"], act["generation"], act["step"]): act["last"]
        for _, act in history.acts("complete_step")
        if act["phase"] != "refused"
    }
    for ended in ended_jobs(history):
        yield from _check_recorded(ended, seq_ids, of_run)


def _check_run_effects(run_id: str, effects: Sequence[Act], intended: set[tuple[str, int]]) -> Iterator[Violation]:
    about = f"run {run_id}"
    # a forward pass changes nothing: it may be repeated, also to see how a service takes that
    changes = Counter((effect["seq_id"], effect["kind"]) for effect in effects if effect["kind"] != "forward")
    for (seq_id, kind), count in changes.items():
        if count > 1:
            yield Violation("effect", about, f"number {seq_id}, {kind}, was applied {count} times")
    steps = [effect for effect in effects if effect["kind"] == "optim_step"]
    numbers = [effect["seq_id"] for effect in steps]
    if numbers != sorted(numbers):
        yield Violation("effect", about, f"optimizer steps were applied out of order: {numbers}")
    for effect in steps[:-1]:
        # the last may be one without an effect, which discards the gradients of a run that is given up
        if (run_id, effect["seq_id"]) not in intended:
            yield Violation("effect", about, f"number {effect['seq_id']} was applied, and nobody journaled it")


def _check_recorded(
    ended: EndedJob, seq_ids: Mapping[tuple[str, int, int], int], of_run: Mapping[str, Sequence[Act]]
) -> Iterator[Violation]:
    about = f"job {ended.job}"
    by_generation: dict[int, set[int]] = defaultdict(set)
    for step, generation in sorted(ended.steps.items()):
        seq_id = seq_ids.get((ended.job, generation, step))
        if not seq_id:
            # recorded by nobody here, or a step that was skipped
            continue
        by_generation[generation].add(seq_id)
        applied = [
            effect["step"]
            for effect in of_run.get(ended.runs[generation]["run_id"], ())
            if effect["kind"] == "optim_step" and effect["seq_id"] == seq_id
        ]
        if applied != [step]:
            text = f"step {step} is recorded with number {seq_id}, which was applied as {applied}"
            yield Violation("applied", about, text)
    last = max(ended.runs, default=0)
    effects = of_run.get(ended.runs[last]["run_id"], ()) if last else ()
    extra = {effect["seq_id"] for effect in effects if effect["kind"] == "optim_step"} - by_generation[last]
    if extra:
        yield Violation("applied", about, f"its last run applied {sorted(extra)}, which is not recorded")
