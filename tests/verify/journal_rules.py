"""Rules of the journal: what a later owner reads, and the steps of a job that has ended. Standard library only."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.verify.history import WRITES, Act, History, Owner, Violation, name_of, owner_of


@dataclass
class LoadedJournal:
    """The journal as an owner read it."""

    owner: Owner
    runs: dict[int, Act]
    steps: dict[int, set[int]]
    last_seq_id: int | None
    checkpoints: Mapping[str, str]

    @classmethod
    def of(cls, act: Act) -> "LoadedJournal":
        """Read a line."""
        steps = {
            int(generation): {step for first, last in spans for step in range(first, last + 1)}
            for generation, spans in act["steps"].items()
        }
        runs = {run["generation"]: run for run in act["runs"]}
        return cls(owner_of(act), runs, steps, act["last_seq_id"], act["checkpoints"])

    def has_step(self, generation: int, step: int) -> bool:
        """Whether a step is in it, or was repeated by a later run."""
        if step in self.steps.get(generation, ()):
            return True
        return any(later > generation and run["from_step"] < step for later, run in self.runs.items())

    def missing(self, act: Act) -> str | None:
        """What of an accepted write is not in it."""
        match act["act"]:
            case "begin_run":
                run = self.runs.get(act["generation"])
                found = run is not None and run["run_id"] == act["run_id"]
                return None if found else f"run {act['generation']}, {act['run_id']}"
            case "complete_step":
                return None if self.has_step(act["generation"], act["step"]) else f"step {act['step']}"
            case "intend" | "plan_checkpoint":
                return self._missing_intent(act)
            case "commit_checkpoint":
                status = self.checkpoints.get(act["name"], "missing")
                return f"checkpoint {act['name']}, which is {status}" if status in ("missing", "pending") else None
        return None

    def _missing_intent(self, act: Act) -> str | None:
        newest = max(self.runs, default=0)
        if act["generation"] > newest:
            return f"an intent of run {act['generation']}"
        last = max((intent["last"] for intent in act["intents"]), default=0)
        if act["generation"] == newest and (self.last_seq_id or 0) < last:
            return f"the intent with sequence number {last}"
        return None


def check_loads(history: History) -> Iterator[Violation]:
    """What an owner was told is written is in the journal that each later owner reads: it is not lost, and was not
    written behind the back of the later one."""
    loads: dict[str, list[LoadedJournal]] = defaultdict(list)
    for _, act in history.acts("load"):
        loads[act["job"]].append(LoadedJournal.of(act))
    for _, act in history.acts(*WRITES, phase="ok"):
        for loaded in loads[act["job"]]:
            if loaded.owner[1] > act["fence"] and (missing := loaded.missing(act)) is not None:
                yield Violation(
                    "fenced",
                    name_of(owner_of(act)),
                    f"{act['act']} was accepted, and fence {loaded.owner[1]} did not find it: {missing}",
                )
                break


def check_records(history: History) -> Iterator[Violation]:
    """A run of a job is one remote run, and each of its steps is recorded once."""
    runs: dict[tuple[str, int], set[str]] = defaultdict(set)
    records: dict[tuple[str, int, int], list[Act]] = defaultdict(list)
    for _, act in history.acts("begin_run", phase="ok"):
        runs[act["job"], act["generation"]].add(act["run_id"])
    for _, act in history.acts("complete_step", phase="ok"):
        records[act["job"], act["generation"], act["step"]].append(act)
    for (job, generation), run_ids in runs.items():
        if len(run_ids) > 1:
            yield Violation("run", job, f"generation {generation} is {sorted(run_ids)}")
    for (job, generation, step), acts in records.items():
        if len(acts) > 1:
            fences = sorted(act["fence"] for act in acts)
            yield Violation("step", job, f"step {step} of run {generation} was recorded by the fences {fences}")


@dataclass
class EndedJob:
    """The steps of a job that has succeeded, as its last owner left them: the run of each step, by number."""

    job: str
    runs: dict[int, Act]
    steps: dict[int, int]
    records: list[int]


def ended_jobs(history: History) -> Iterator[EndedJob]:
    """Yield the training jobs that have succeeded."""
    loads: dict[Owner, LoadedJournal] = {}
    for _, act in history.acts("load"):
        # the first, before anything that the owner itself has written
        loads.setdefault(owner_of(act), LoadedJournal.of(act))
    refused = {owner_of(act) for _, act in history.acts("finish", phase="refused")}
    last: dict[str, int] = {}
    for _, act in history.acts("finish"):
        if act["outcome"] == "succeeded" and owner_of(act) not in refused:
            last[act["job"]] = max(act["fence"], last.get(act["job"], 0))
    own: dict[Owner, list[Act]] = defaultdict(list)
    for _, act in history.acts("begin_run", "complete_step", phase="ok"):
        own[owner_of(act)].append(act)
    for owner in last.items():
        loaded = loads.get(owner)
        if loaded is None:
            continue
        runs = dict(loaded.runs)
        records = [(generation, step) for generation in sorted(loaded.steps) for step in loaded.steps[generation]]
        for act in own[owner]:
            if act["act"] == "begin_run":
                runs[act["generation"]] = act
                later = act["from_step"]
                records = [record for record in records if record[1] <= later]
            else:
                records.append((act["generation"], act["step"]))
        steps = {step: generation for generation, step in records}
        yield EndedJob(owner[0], runs, steps, [step for _, step in records])


def check_final_steps(history: History) -> Iterator[Violation]:
    """A job that has succeeded has each of its steps once."""
    for ended in ended_jobs(history):
        if not ended.runs:
            continue
        first = ended.runs[min(ended.runs)]["from_step"]
        expected = list(range(first + 1, first + 1 + len(ended.records)))
        if sorted(ended.records) != expected:
            yield Violation("steps", ended.job, f"has the steps {sorted(ended.records)}, not each once")
