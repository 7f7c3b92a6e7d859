"""Shared limits: stored by name, and given as the reason of jobs that wait for them."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible.errors import InvalidRequest
from nsai_work.clock import SystemClock
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store import Claim, ClaimRequest, Limit, LimitUse, Outcome, Store
from nsai_work.store.claim.limits import MAX_MODEL_BYTES, MAX_RUNNING
from nsai_work.store.maintenance import workers
from nsai_work.store.worker_id import WorkerId
from nsai_work.worker.attempts.backends import BackendPool
from tests.integration.store.conftest import ManualClock
from tests.working_store import selection

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


def train(model: str) -> Job:
    """A job that names a model."""
    payload = {"base_model": model, "data": {"path": "d"}, "max_steps": 1}
    return Job.parse({"kind": "training_step", "backend": "fake", "payload": payload, "tenant_id": "t"})


class Worker:
    """A worker as the store sees it, with its credential at the scripted backend."""

    def __init__(self, store: Store, number: int, account: str | None) -> None:
        self._store = store
        self._id = WorkerId("host", "boot", "namespace", number, number, "nonce")
        credentials = {} if account is None else {"fake": account}
        self._backends = BackendPool(SystemClock(), credentials=credentials).available()
        store.database.run(workers.register_worker, self._id, version="1", backends=self._backends)

    def claim(self) -> list[Claim]:
        """Claim as many jobs as possible."""
        return self._store.claim(ClaimRequest(str(self._id), 10, 10.0, selection(backends=self._backends)))

    def leave(self) -> None:
        """Record the shutdown."""
        self._store.database.run(workers.worker_seen, str(self._id), stopped=True)


def test_each_limit_counts_its_running_jobs(store: Store, claim_request: MakeRequest) -> None:
    """By tenant, by credential, and by credential and model; concurrency groups are not listed."""
    grouped = train("qwen").model_dump(mode="json", exclude={"id"})
    grouped["constraints"] = {"concurrency_group": "g", "max_concurrent_in_group": 5}
    store.submit([train("llama"), train("llama"), train("qwen"), Job.parse(grouped)])
    store.claim(claim_request(limit=3, backends={"fake": "team-a"}))
    store.claim(claim_request(limit=1, backends={"fake": "team-b"}))

    uses = [
        store.set_tenant_quota("t", 9),
        store.set_tenant_quota("nobody", 0),
        store.set_model_limit("team-a", 1),
        store.set_model_limit("team-a", 9, model="llama"),
        store.set_model_limit("team-b", 9),
        store.set_model_limit("fake", 9),
    ]

    assert [use.running for use in uses] == [4, 0, 3, 2, 1, 0]
    assert sorted(store.limits_in_use(), key=str) == sorted(uses, key=str)


def test_a_limit_replaces_an_existing_one(store: Store) -> None:
    """The newest one holds; removing a limit that is not set is no error."""
    store.set_tenant_quota("t", 1)
    store.set_tenant_quota("t", 2)
    store.set_model_limit("t", 3)

    assert store.limits() == [Limit("model", "t", "*", 3), Limit("tenant", "t", "*", 2)]
    assert store.set_tenant_quota("t", None) == LimitUse(Limit("tenant", "t", "*", None), 0)
    store.set_tenant_quota("t", None)
    assert store.limits() == [Limit("model", "t", "*", 3)]


@pytest.mark.parametrize(
    ("account", "most", "model", "field"),
    [
        pytest.param("a", -1, "*", "max_running", id="negative"),
        pytest.param("a", MAX_RUNNING + 1, "*", "max_running", id="more than a database can keep"),
        pytest.param("", 1, "*", "credential", id="no credential"),
        pytest.param("a\x00", 1, "*", "credential", id="NUL"),
        pytest.param("a\ud800", 1, "*", "credential", id="lone surrogate"),
        pytest.param("a" * 201, 1, "*", "credential", id="long credential"),
        pytest.param("a", 1, "", "model", id="no model"),
        pytest.param("a", 1, "m\ud800", "model", id="lone surrogate in a model"),
        pytest.param("a", 1, "\u00fc" * 501, "model", id="long model"),
    ],
)
def test_an_invalid_limit_is_refused(store: Store, account: str, most: int, model: str, field: str) -> None:
    """The error names the field, and the limits are unchanged."""
    store.set_model_limit("a", 5)

    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        store.set_model_limit(account, most, model=model)

    assert store.limits() == [Limit("model", "a", "*", 5)]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(min_size=1, max_size=200), model=st.text(min_size=1, max_size=1_000), most=st.integers(0, 10**6)
)
def test_every_accepted_limit_round_trips(store: Store, name: str, model: str, most: int) -> None:
    """On each database, whatever the names contain; it is removed by the same names."""
    try:
        use = store.set_model_limit(name, most, model=model)
        quota = store.set_tenant_quota(name, most)
    except InvalidRequest:
        quota = None
    if quota is not None:
        assert (
            store.limits()
            == [use.limit, quota.limit]
            == [
                Limit("model", name, model, most),
                Limit("tenant", name, "*", most),
            ]
        )
        store.set_tenant_quota(name, None)
        store.set_model_limit(name, None, model=model)

    assert store.limits() == []


def test_the_longest_names_fit(store: Store) -> None:
    """Into PostgreSQL's index, incompressible ones included."""
    name = "".join(chr(0x20000 + 97 * n) for n in range(200))
    model = "".join(chr(0x24000 + 89 * n) for n in range(MAX_MODEL_BYTES // 4))

    assert store.set_model_limit(name, 1, model=model).limit == store.limits()[0]
    store.set_tenant_quota(name, 1)


def test_credentials_at_one_backend_are_limited_separately(store: Store) -> None:
    """Each of two workers runs as many jobs as its credential may, and waiting jobs name the limit, until capacity
    is free."""
    first, same, second = Worker(store, 1, "team-a"), Worker(store, 2, "team-a"), Worker(store, 3, "team-b")
    store.set_model_limit("team-a", 1)
    store.set_model_limit("team-b", 2, model="llama")
    store.submit([train("llama") for _ in range(5)])

    claims = first.claim()
    assert [claim.credential for claim in claims] == ["team-a"]
    assert same.claim() == []
    # the other credential has capacity, so waiting jobs do not wait for a limit
    assert store.list_jobs()[-2].wait_reason == "waits for a free worker"
    assert [claim.credential for claim in second.claim()] == ["team-b", "team-b"]
    assert second.claim() == []

    waiting = store.list_jobs()[0]
    assert waiting.status is JobStatus.QUEUED
    assert waiting.wait_reason == "limit of team-a for all models is reached (1 of 1 running)"
    second.leave()
    store.finish(claims[0], Outcome.succeeded())
    assert store.list_jobs()[1].wait_reason == "waits for a free worker"
    assert len(same.claim()) == 1


def test_a_limit_below_the_running_jobs_stops_none(store: Store, make_job: MakeJob) -> None:
    """Running jobs continue, no new ones start, and a higher limit admits them."""
    worker = Worker(store, 1, None)
    store.submit([make_job() for _ in range(3)])
    assert len(worker.claim()) == 3
    store.submit([make_job()])

    assert store.set_model_limit("fake", 1).running == 3
    assert worker.claim() == []
    assert store.list_jobs()[0].wait_reason == "limit of fake for all models is reached (3 of 1 running)"

    store.set_model_limit("fake", 4)
    assert len(worker.claim()) == 1


def test_a_killed_worker_counts_for_a_while(store: Store, clock: ManualClock) -> None:
    """Its credential does not hide the wait reason for ever."""
    Worker(store, 1, "team-a")
    clock.pass_time(601)
    worker = Worker(store, 2, "team-b")
    store.set_model_limit("team-b", 0)
    store.submit([train("llama")])

    assert worker.claim() == []
    assert store.list_jobs()[0].wait_reason == "limit of team-b for all models is reached (0 of 0 running)"
