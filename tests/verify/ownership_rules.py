"""Rules of ownership: submits, claims, ends, and what a single owner may do. Standard library only."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.verify.history import ENDS, WRITES, History, Owner, Violation, name_of, owner_of


def check_submits(history: History) -> Iterator[Violation]:
    """One key, or one id without a key, leads to one job, which is created once."""
    answers: dict[str, set[str]] = defaultdict(set)
    created: Counter[str] = Counter()
    asked: dict[str, set[str]] = defaultdict(set)
    for _, act in history.acts("submit"):
        for job in act["jobs"]:
            key = job["key"] or job["job"]
            asked[key].add(job["job"])
            if act["phase"] == "ok":
                answers[key].add(job["answer"])
                created[key] += job["created"]
    claimed = {act["job"] for _, act in history.acts("claim")}
    for key, jobs in asked.items():
        if len(answers[key]) > 1:
            yield Violation("submit", key, f"answered with several jobs: {sorted(answers[key])}")
        if created[key] > 1:
            yield Violation("submit", key, f"created {created[key]} times")
        if answers[key] and (others := (jobs & claimed) - answers[key]):
            yield Violation("submit", key, f"answered with {sorted(answers[key])}, and {sorted(others)} ran too")
    known = {job for jobs in asked.values() for job in jobs} | {job for jobs in answers.values() for job in jobs}
    for job in sorted(claimed - known):
        yield Violation("submit", job, "ran, and nobody submitted it")


def check_claims(history: History) -> Iterator[Violation]:
    """A fencing token belongs to one claim of one worker, and only its owner acts under it."""
    claims: dict[Owner, list[str]] = defaultdict(list)
    for party, act in history.acts("claim"):
        claims[owner_of(act)].append(party)
    for owner, parties in claims.items():
        if len(parties) > 1:
            yield Violation("claim", name_of(owner), f"claimed {len(parties)} times, by {sorted(set(parties))}")
    for party, act in history.acts("load", *WRITES, "finish", "requeue"):
        if party not in claims[owner_of(act)]:
            yield Violation("claim", name_of(owner_of(act)), f"{act['act']} by {party}, which has not claimed it")


def check_ends(history: History) -> Iterator[Violation]:
    """An ownership ends one way, a job ends once, and nobody owns it afterwards."""
    ends: dict[Owner, list[str]] = defaultdict(list)
    finished: dict[str, list[int]] = defaultdict(list)
    for _, act in history.acts(*ENDS, phase="ok"):
        ends[owner_of(act)].append(act["act"])
        if act["act"] == "finish":
            finished[act["job"]].append(act["fence"])
    for owner, names in ends.items():
        if len(names) > 1:
            yield Violation("end", name_of(owner), f"ended {len(names)} times: {', '.join(names)}")
    for job, fences in finished.items():
        if len(fences) > 1:
            yield Violation("finish", job, f"finished {len(fences)} times, by the fences {sorted(fences)}")
    for _, act in history.acts("claim"):
        if any(act["fence"] > fence for fence in finished[act["job"]]):
            yield Violation("finish", name_of(owner_of(act)), "claimed after the job had finished")
    if history.complete:
        tried = {act["job"] for _, act in history.acts("finish")}
        submitted = {job["answer"] for _, act in history.acts("submit", phase="ok") for job in act["jobs"]}
        for job in sorted(submitted - tried):
            yield Violation("finish", job, "was submitted, and nobody finished it")


def check_owners(history: History) -> Iterator[Violation]:
    """An owner writes nothing once it has given the job up, or was told that another has it; its steps are in
    order."""
    for party, acts in history.parties.items():
        over: dict[Owner, str] = {}
        last: dict[tuple[str, int, int], int] = {}
        for act in acts:
            if act["act"] not in (*WRITES, "finish", "requeue"):
                continue
            owner = owner_of(act)
            if act["phase"] == "begin" and act["act"] in WRITES and over.get(owner) in ("finish", "requeue"):
                yield Violation("owner", name_of(owner), f"{act['act']} by {party} after its {over[owner]}")
            if act["phase"] == "ok" and over.get(owner) == "refused":
                yield Violation("owner", name_of(owner), f"{act['act']} accepted after one of it was refused")
            if act["phase"] == "refused":
                over[owner] = "refused"
            elif act["phase"] == "ok" and act["act"] in ("finish", "requeue"):
                over[owner] = act["act"]
            if act["phase"] == "ok" and act["act"] == "complete_step":
                key = (*owner, act["generation"])
                if key in last and act["step"] != last[key] + 1:
                    yield Violation("order", name_of(owner), f"step {act['step']} recorded after step {last[key]}")
                last[key] = act["step"]


def check_functions(history: History) -> Iterator[Violation]:
    """No function runs for two owners at once; the functions themselves write when one does."""
    for _, act in history.acts("overlap"):
        yield Violation("function", f"job {act['job']}", f"ran for two owners at once: {act['text']}")
