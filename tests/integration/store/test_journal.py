"""The journal: the next owner of a training job finds the writes of the last one, and none of a stale one."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from crucible.errors import InvalidRequest, NotFound
from crucible.training import Intent, IntentKind, RunRef
from nsai_work.errors import LeaseLost
from nsai_work.job import Job
from nsai_work.journal import (
    AnswerRow,
    CheckpointRecord,
    CheckpointStatus,
    EvaluationRecord,
    Journal,
    RemoteRun,
    ResumeMode,
    SinkMark,
    StepRecord,
)
from nsai_work.store import AsyncStore, Claim, ClaimRequest, Outcome, Store, StoreJournal
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import jobs

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


@pytest.fixture
def claim(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> Claim:
    """A job that w1 runs."""
    store.submit([make_job()])
    return store.claim(claim_request())[0]


def run_record(generation: int, from_step: int = 0) -> RemoteRun:
    ref = RunRef(backend="fake", run_id=f"run{generation}")
    return RemoteRun(generation=generation, ref=ref, from_step=from_step, resume=ResumeMode.FRESH)


def step_record(step: int, generation: int = 1, loss: float = 0.1) -> StepRecord:
    return StepRecord(
        step=step, epoch=0, loss=loss, tokens=8, learning_rate=1e-4, generation=generation, metrics={"x": 1e-17}
    )


def evaluation_record(step: int, generation: int = 1) -> EvaluationRecord:
    return EvaluationRecord(step=step, generation=generation, metrics={"eval.loss": 0.1 + 0.2}, rows=3, tokens=30)


def intent(seq_id: int, step: int, kind: IntentKind = IntentKind.STEP, generation: int = 1) -> Intent:
    return Intent(
        kind=kind, run_id=f"run{generation}", first_seq_id=seq_id, last_seq_id=seq_id, step=step, digest="d"
    )


def with_journal(store: Store, claim: Claim, scenario: Callable[[Journal], object]) -> None:
    """Run a coroutine with the journal of a claim."""

    async def tell() -> None:
        async_store = AsyncStore(store.database)
        try:
            await scenario(StoreJournal(async_store, claim))
        finally:
            await async_store.close()

    asyncio.run(tell())


def test_steps_and_open_intents_survive_their_owner(store: Store, claim: Claim, claim_request: MakeRequest) -> None:
    """A new owner finds the recorded steps, exactly, and the intents without results."""

    async def first(journal: Journal) -> None:
        await journal.begin_run(run_record(1))
        await journal.intend(1, [intent(1, 1), intent(2, 2), intent(3, 3)])
        await journal.intend(1, [intent(2, 2)])
        await journal.complete_step(step_record(1, loss=0.1 + 0.2), 1)
        await journal.complete_step(step_record(1, loss=9.9), 1)

    async def second(journal: Journal) -> None:
        snapshot = await journal.load()
        assert snapshot.run == run_record(1)
        assert [(step.step, step.loss, step.metrics) for step in snapshot.steps] == [(1, 0.1 + 0.2, {"x": 1e-17})]
        assert snapshot.open_intents == [intent(2, 2), intent(3, 3)]

    with_journal(store, claim, first)
    store.requeue(claim, Outcome.released("handed over"))
    with_journal(store, store.claim(claim_request("w2"))[0], second)
    assert [event.name for event in store.events(claim.job_id)].count("step") == 1


def test_a_restore_supersedes_later_steps(store: Store, claim: Claim) -> None:
    """Steps after the restored checkpoint are superseded, kept for comparison, and run again."""

    async def scenario(journal: Journal) -> None:
        await journal.begin_run(run_record(1))
        await journal.intend(1, [intent(step, step) for step in range(1, 6)])
        for step in range(1, 5):
            await journal.complete_step(step_record(step, loss=float(step)), step)
        await journal.end_run(1, "corrupted")
        restored = run_record(2, from_step=2).model_copy(update={"lost_steps": 2, "restart_reason": "why"})
        await journal.begin_run(restored)
        assert (await journal.load()).run == restored
        await journal.complete_step(step_record(3, generation=2, loss=30.0), 1)
        await journal.set_resume(2, ResumeMode.EXACT)
        snapshot = await journal.load()
        assert [(record.step, record.loss) for record in snapshot.steps] == [(1, 1.0), (2, 2.0), (3, 30.0)]
        assert {step: record.loss for step, record in snapshot.superseded.items()} == {3: 3.0, 4: 4.0}
        assert snapshot.open_intents == []
        assert [(run.end_reason, run.resume) for run in snapshot.runs] == [("corrupted", "fresh"), (None, "exact")]

    with_journal(store, claim, scenario)
    assert [step.step for step in store.steps(claim.job_id)] == [1, 2, 3]
    assert [run.generation for run in store.runs(claim.job_id)] == [1, 2]


def test_a_sink_goes_on_where_it_was(store: Store, claim: Claim, claim_request: MakeRequest) -> None:
    """Each sink of a job has a mark of its own; it lacks what is current after the mark, of the runs up to its own,
    so that a run which begins meanwhile is examined first. A fenced owner moves no mark."""
    mark = SinkMark(segment=2, generation=1, from_step=1, resume=ResumeMode.COLD, step=2, evaluated=1)

    async def first(journal: Journal) -> None:
        await journal.begin_run(run_record(1))
        for step in range(1, 5):
            await journal.complete_step(step_record(step), step)
            await journal.complete_evaluation(evaluation_record(step), step)
        assert (await journal.sink_state("a")).mark == SinkMark()
        await journal.advance_sink("a", SinkMark(generation=1))
        await journal.advance_sink("a", mark)
        steps, evaluations = await journal.after_mark(mark, 10)
        assert [record.step for record in steps] == [3, 4]
        assert [record.step for record in evaluations] == [2, 3, 4]
        steps, evaluations = await journal.after_mark(mark, 1)
        assert [record.step for record in (*steps, *evaluations)] == [3, 2]

    async def second(journal: Journal) -> None:
        state = await journal.sink_state("a")
        assert (state.mark, state.recorded) == (mark, {1: 4})
        assert (await journal.sink_state("b")).mark == SinkMark()
        await journal.begin_run(run_record(2, from_step=3).model_copy(update={"restored_from": "x"}))
        await journal.complete_step(step_record(4, generation=2, loss=9.0), 1)
        assert [record.step for record in (await journal.after_mark(mark, 10))[0]] == [3]
        state = await journal.sink_state("a")
        assert ([run.generation for run in state.runs], state.recorded) == ([1, 2], {1: 4, 2: 1})
        newest = mark.model_copy(update={"generation": 2})
        assert [record.loss for record in (await journal.after_mark(newest, 10))[0]] == [0.1, 9.0]

    async def stale(journal: Journal) -> None:
        for call in (journal.sink_state("a"), journal.after_mark(mark, 1), journal.advance_sink("a", SinkMark())):
            with pytest.raises(LeaseLost):
                await call

    with_journal(store, claim, first)
    store.requeue(claim, Outcome.released("handed over"))
    with_journal(store, store.claim(claim_request("w2"))[0], second)
    with_journal(store, claim, stale)


def test_evaluations_are_superseded_with_their_steps(store: Store, claim: Claim) -> None:
    """Each is recorded once for a run, and closes its passes; a run that starts anew repeats step 0 too."""

    async def scenario(journal: Journal) -> None:
        await journal.begin_run(run_record(1))
        await journal.intend(1, [intent(n, n // 2, IntentKind.FORWARD) for n in range(1, 6)])
        for step, last in ((0, 1), (1, 3), (1, 3), (2, 5)):
            await journal.complete_evaluation(evaluation_record(step), last)
        assert (await journal.load()).open_intents == []
        await journal.end_run(1, "gone")
        await journal.begin_run(run_record(2, from_step=1).model_copy(update={"restored_from": "x"}))
        snapshot = await journal.load()
        assert [record.step for record in snapshot.evaluations] == [0, 1]
        assert {*snapshot.superseded_evaluations} == {2}
        await journal.end_run(2, "gone")
        await journal.begin_run(run_record(3))
        snapshot = await journal.load()
        assert snapshot.evaluations == []
        assert {*snapshot.superseded_evaluations} == {0, 1, 2}
        await journal.intend(3, [intent(1, 0, IntentKind.FORWARD)])
        await journal.complete_evaluation(evaluation_record(0, generation=3), 1)

    with_journal(store, claim, scenario)
    [record] = store.evaluations(claim.job_id)
    assert (record.step, record.generation, record.metrics) == (0, 3, {"eval.loss": 0.1 + 0.2})
    assert [event.name for event in store.events(claim.job_id)].count("evaluation") == 4


def test_references_are_kept_once(store: Store, claim: Claim, claim_request: MakeRequest) -> None:
    """As bytes, for every later owner; the first stays."""

    async def first(journal: Journal) -> None:
        await journal.keep_reference(0, bytes(range(256)))
        await journal.keep_reference(0, b"another")
        await journal.keep_reference(2, b"")

    async def second(journal: Journal) -> None:
        assert await journal.references() == {0: bytes(range(256)), 2: b""}
        assert [await journal.reference(number) for number in range(3)] == [bytes(range(256)), None, b""]

    with_journal(store, claim, first)
    store.requeue(claim, Outcome.released("handed over"))
    with_journal(store, store.claim(claim_request("w2"))[0], second)


def test_answers_are_kept_once_and_counted_where_they_are_written(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """As bytes, in the order of their lines, those of each job apart; a new one resets the count of crashes."""
    store.submit([make_job(), make_job()])
    first, other = store.claim(claim_request(limit=2))

    def state(claim: Claim) -> tuple[int, int]:
        def read(tx: Tx) -> tuple[int, int]:
            row = tx.connection.execute(select(jobs).where(jobs.c.seq == claim.seq)).one()
            return row.progress, row.crashes

        return store.database.read(read)

    async def answer(journal: Journal) -> None:
        kept = [AnswerRow(line, "d", bytes([line])) for line in (200, 3, 200, 1)]
        await asyncio.gather(*(journal.keep_answer(row) for row in kept))
        await journal.keep_answer(AnswerRow(3, "d", b"another"))
        assert await journal.answers(0, 2) == [AnswerRow(1, "d", b"\x01"), AnswerRow(3, "d", b"\x03")]
        assert [row.line for row in await journal.answers(3, 2)] == [200]

    store.database.run(lambda tx: tx.connection.execute(update(jobs).values(crashes=1)))
    with_journal(store, first, answer)

    assert (state(first), state(other)) == ((3, 0), (0, 1))
    assert [row.line for row in store.answers(first.job_id)] == [1, 3, 200]
    assert store.answers(other.job_id) == []


def test_a_checkpoint_is_saved_in_two_phases(store: Store, claim: Claim) -> None:
    """Pending first, then committed with its path; both phases may be repeated."""
    planned = CheckpointRecord(name="000002-g1", step=2, generation=1, metric=0.5)
    save = intent(7, 2, IntentKind.SAVE_STATE)

    async def scenario(journal: Journal) -> None:
        await journal.begin_run(run_record(1))
        for _ in range(2):
            await journal.plan_checkpoint(planned, save)
        snapshot = await journal.load()
        assert [(saved.name, saved.status) for saved in snapshot.checkpoints] == [
            ("000002-g1", CheckpointStatus.PENDING)
        ]
        assert snapshot.open_intents == [save]
        for _ in range(2):
            await journal.commit_checkpoint("000002-g1", path="x://1", last_seq_id=7, size_bytes=10)
        await journal.set_sampler_path("000002-g1", "x://s")
        snapshot = await journal.load()
        (kept,) = snapshot.checkpoints
        assert (kept.kept, kept.path, kept.sampler_path, kept.size_bytes) == (True, "x://1", "x://s", 10)
        assert snapshot.open_intents == []
        with pytest.raises(NotFound, match="no checkpoint 'other'"):
            await journal.commit_checkpoint("other", path="x", last_seq_id=1)

    with_journal(store, claim, scenario)
    assert [event.name for event in store.events(claim.job_id)].count("checkpoint.committed") == 1


def test_sampling_weights_of_a_state_are_recorded_once(store: Store, claim: Claim) -> None:
    """Without a claim: the first to save them wins, and whoever deletes the checkpoint sees them."""

    async def save(journal: Journal) -> None:
        await journal.plan_checkpoint(
            CheckpointRecord(name="a", step=1, generation=1), intent(1, 1, IntentKind.SAVE_STATE)
        )
        with pytest.raises(InvalidRequest, match="it is pending; only a committed one can be sampled from"):
            store.keep_sampler_path(claim.job_id, "a", "x://s")
        await journal.commit_checkpoint("a", path="x://a", last_seq_id=1)

    async def delete(journal: Journal) -> None:
        deleting = await journal.mark_checkpoint("a", CheckpointStatus.DELETING)
        assert (deleting.status, deleting.sampler_path) == (CheckpointStatus.DELETING, "x://s")

    with_journal(store, claim, save)
    assert [store.keep_sampler_path(claim.job_id, "a", path) for path in ("x://s", "x://t")] == ["x://s"] * 2
    with_journal(store, claim, delete)
    with pytest.raises(InvalidRequest, match="it is deleting"):
        store.keep_sampler_path(claim.job_id, "a", "x://u")
    assert [event.name for event in store.events(claim.job_id)].count("checkpoint.sampler_saved") == 1


def test_a_promoted_checkpoint_cannot_be_deleted(store: Store, claim: Claim) -> None:
    """Promotion needs no claim, and no owner can delete a promoted checkpoint."""

    async def save(journal: Journal) -> None:
        for name in ("a", "b"):
            seq_id = ord(name)
            await journal.plan_checkpoint(
                CheckpointRecord(name=name, step=1, generation=1), intent(seq_id, 1, IntentKind.SAVE_STATE)
            )
        await journal.commit_checkpoint("a", path="x://a", last_seq_id=ord("a"))

    async def delete(journal: Journal) -> None:
        with pytest.raises(InvalidRequest, match="promoted"):
            await journal.mark_checkpoint("a", CheckpointStatus.DELETING)
        await journal.mark_checkpoint("b", CheckpointStatus.LOST, "never arrived")

    with_journal(store, claim, save)
    assert not store.promotable(claim.job_id, "a").promoted
    for ask in (store.promotable, store.promote):
        with pytest.raises(InvalidRequest, match="it is pending; only a committed one"):
            ask(claim.job_id, "b")
        with pytest.raises(NotFound, match="no checkpoint 'c'"):
            ask(claim.job_id, "c")
    assert store.promote(claim.job_id, "a").promoted
    with_journal(store, claim, delete)
    assert [(saved.name, saved.status, saved.note) for saved in store.checkpoints(claim.job_id)] == [
        ("a", CheckpointStatus.COMMITTED, None),
        ("b", CheckpointStatus.LOST, "never arrived"),
    ]
    lost = [event.data for event in store.events(claim.job_id) if event.name == "checkpoint.lost"]
    assert lost == [{"name": "b", "step": 1, "path": None, "reason": "never arrived"}]


def test_a_stale_owner_writes_nothing_into_the_journal(
    store: Store, claim: Claim, claim_request: MakeRequest
) -> None:
    """Every method of the journal is fenced, ``load`` included."""

    async def scenario(journal: Journal) -> None:
        planned = CheckpointRecord(name="c", step=1, generation=1)
        calls = {
            "load": journal.load(),
            "begin_run": journal.begin_run(run_record(1)),
            "end_run": journal.end_run(1, "x"),
            "set_resume": journal.set_resume(1, ResumeMode.WARM),
            "intend": journal.intend(1, [intent(1, 1)]),
            "complete_step": journal.complete_step(step_record(1), 1),
            "complete_evaluation": journal.complete_evaluation(evaluation_record(1), 1),
            "references": journal.references(),
            "keep_reference": journal.keep_reference(0, b"x"),
            "answers": journal.answers(0, 1),
            "keep_answer": journal.keep_answer(AnswerRow(1, "d", b"x")),
            "close_intent": journal.close_intent(1, 1),
            "plan_checkpoint": journal.plan_checkpoint(planned, intent(1, 1)),
            "commit_checkpoint": journal.commit_checkpoint("c", path="x", last_seq_id=1),
            "set_sampler_path": journal.set_sampler_path("c", "x"),
            "mark_checkpoint": journal.mark_checkpoint("c", CheckpointStatus.DELETED),
            "event": journal.event("note", {}),
        }
        answers = await asyncio.gather(*calls.values(), return_exceptions=True)
        assert {name: type(answer) for name, answer in zip(calls, answers, strict=True)} == dict.fromkeys(
            calls, LeaseLost
        )

    store.requeue(claim, Outcome.released("handed over"))
    store.claim(claim_request("w2"))
    before = store.events(claim.job_id)
    with_journal(store, claim, scenario)

    assert store.events(claim.job_id) == before
    assert store.answers(claim.job_id) == []
    assert store.steps(claim.job_id) == store.runs(claim.job_id) == store.checkpoints(claim.job_id) == []


def test_steps_of_many_jobs_are_journaled_together(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Fifty runs record a step at once, each its own; only the stale one gets an error."""
    store.submit([make_job() for _ in range(50)])
    claims = store.claim(claim_request(limit=50))
    store.requeue(claims[7], Outcome.released("handed over"))

    async def tell() -> list[object]:
        async_store = AsyncStore(store.database)
        journals = [StoreJournal(async_store, claim) for claim in claims]
        await asyncio.gather(*(journal.intend(1, [intent(1, 1)]) for journal in journals), return_exceptions=True)
        twice = [
            journal.complete_step(step_record(1, loss=float(n)), 1)
            for n, journal in enumerate(journals)
            for _ in "ab"
        ]
        answers = await asyncio.gather(*twice, return_exceptions=True)
        await async_store.close()
        return list(answers)

    answers = asyncio.run(tell())

    assert [n // 2 for n, answer in enumerate(answers) if isinstance(answer, LeaseLost)] == [7, 7]
    for number, claim in enumerate(claims):
        assert [step.loss for step in store.steps(claim.job_id)] == ([] if number == 7 else [float(number)])
