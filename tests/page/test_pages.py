"""Each page answers as HTML and as JSON, from what the store has; texts of jobs stay text."""

import html
import re
from pathlib import Path

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from nsai_work import Settings
from nsai_work.page.pages import PAGES
from nsai_work.store import Outcome
from nsai_work.store.queries import job_log
from nsai_work.store.records import ClaimRequest
from nsai_work.store.schema import rollout_turns
from tests.page.runs import StoredRun, add_rollouts, add_workers, reinforcement_job, training_job
from tests.rig import command, sqlite_template
from tests.working_store import WorkingStore, selection

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "x" * 200,
    "שלום عالم (rtl)",
    "{{ 7 * 7 }}",
]


def test_every_page_without_a_job(page: TestClient) -> None:
    """A new store is no error: each page says that there is nothing."""
    for each in PAGES:
        if each.name != "job":
            assert page.get(each.path).status_code == 200, each.path
            assert page.get(each.twin).headers["content-type"] == "application/json", each.path


def test_the_page_of_a_run(page: TestClient, store: WorkingStore, run_id: str) -> None:
    """It has the figures, the curve with its marks, the attempts, the lineage, the checkpoints and the log."""
    text = page.get("/job", params={"id": run_id}).text

    for shown in (
        *(
            "148<",
            " / 200",
            "2, exact",
            "warm, 0 steps",
            "exact from step 80, 7 again",
            "generation 2",
            "7 steps again",
        ),
        *("host-2/4411", "g2-s000140", "kept, promoted", "worker host-1/4398 died", 'class="ghost"'),
    ):
        assert shown in text, shown
    assert text.count('class="evaluation"') == 7
    # those of steps 20 and 40 were deleted by the policy
    assert text.count('<circle class="checkpoint"') == 5


def test_rollouts_are_there_to_read(page: TestClient, store: WorkingStore) -> None:
    """Of the newest step, or of that in the address: messages, rewards, why each ended; and a curve of rewards."""
    job = reinforcement_job("sums")
    store.submit([job])
    assert page.get("/job.json", params={"id": job.id}).json()["rollouts"] is None
    add_rollouts(store, job, 30, HOSTILE[0])

    shown = page.get("/job.json", params={"id": job.id}).json()["rollouts"]
    assert (shown["step"], shown["last"], shown["number"], shown["failed"]) == (30, 30, 8, 1)
    rewards = [line["reward"] for line in shown["shown"]]
    assert rewards[-1] is None
    assert rewards[:-1] == sorted(rewards[:-1], reverse=True)
    assert [message["role"] for message in shown["shown"][0]["messages"]] == ["user", "assistant"]
    assert shown["curve"]["steps"] == [*range(1, 31)]
    columns = zip(*(shown["curve"][name] for name in ("low", "loss", "high")), strict=True)
    assert all(low <= mean <= high for low, mean, high in columns)
    text = page.get("/job", params={"id": job.id, "step": 3}).text
    assert "Rollouts of step 3" in text
    assert "the environment raised ValueError" in text
    assert html.escape(HOSTILE[0]) in text
    assert HOSTILE[0] not in text
    assert 'aria-label="Reward by optimizer step"' in text

    with store.database.transaction() as tx:
        tx.connection.execute(update(rollout_turns).values(data=b"damaged"))
    assert "nsai_rollout_turns, row of step 30" in page.get("/job", params={"id": job.id}).text


def test_the_metrics_of_the_store(page: TestClient, store: WorkingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while no worker is alive; and without the extra, the answer says what to install."""
    store.submit([command()])
    answer = page.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'nsai_jobs_waiting{reason="no_worker"} 1.0' in answer.text
    monkeypatch.setattr("nsai_work.extras._is_installed", lambda package: package != "prometheus_client")
    assert page.get("/metrics").status_code == 501
    assert 'pip install "nsai-work[metrics]"' in page.get("/metrics").text


def test_where_the_time_went(page: TestClient, run_id: str) -> None:
    """The uses add up to the wall time; the largest is the training itself."""
    used = page.get("/job.json", params={"id": run_id}).json()["goodput"]

    assert used["parts"][0]["use"] == "productive"
    assert sum(part["seconds"] for part in used["parts"]) == pytest.approx(used["wall_s"])
    assert {"replaying", "restoring", "queued"} <= {part["use"] for part in used["parts"]}
    assert "Where " in page.get("/job", params={"id": run_id}).text


@pytest.mark.parametrize("job_id", ["a/b", "a?b=c&d", "../x", 'q"<>', "ü #1", "100%"])
def test_any_id_has_a_page(page: TestClient, store: WorkingStore, job_id: str) -> None:
    """Which the list leads to."""
    store.submit([training_job(id=job_id)])

    (link,) = re.findall(r'<a href="(/job\?id=[^"]+)"', page.get("/jobs").text)
    assert page.get(html.unescape(link)).status_code == 200
    assert page.get("/job.json", params={"id": job_id}).json()["id"] == job_id


def test_the_json_twin_of_a_run(page: TestClient, run_id: str) -> None:
    """It has the same data: one curve over both remote runs, and what was superseded."""
    job = page.get("/job.json", params={"id": run_id}).json()

    assert job["status"] == "running"
    assert job["curve"]["steps"] == list(range(1, 149))
    assert job["curve"]["total"] == 200
    (ghost,) = job["curve"]["ghosts"]
    assert (ghost["generation"], ghost["steps"]) == (1, list(range(81, 88)))
    assert [(mark["step"], mark["mode"]) for mark in job["curve"]["recoveries"]] == [(61, "warm"), (87, "exact")]
    assert job["curve"]["evaluations"]["steps"] == [20, 40, 60, 80, 100, 120, 140]
    assert [run["resume"] for run in job["runs"]] == ["exact", "warm"]
    assert [attempt["outcome"] for attempt in job["attempts"]] == [None, "lost"]


def test_the_pause_of_a_recovery(page: TestClient, run_id: str) -> None:
    """It is the time from the last step before to the first one after it: of the new run, not of the old one."""
    _, restored = page.get("/job.json", params={"id": run_id}).json()["curve"]["recoveries"]

    # step 87 ended at 87 times 3.1 s, step 81 of the new run at 90 times 3.1 s
    assert restored["text"] == "exact from step 80, 7 again, 9.3 s"


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_text(page: TestClient, store: WorkingStore, name: str) -> None:
    """On every page that has them, as on the page of the job itself."""
    job = training_job(name, tags=(name,), tenant_id=name)
    store.submit([job])
    StoredRun(store, job, 90).write()

    texts = [page.get(path).text for path in ("/", "/jobs", "/compare")]
    texts += [page.get(path, params={"id": job.id}).text for path in ("/job", "/compare")]
    for text in texts:
        assert "<script>alert" not in text
        assert "<img" not in text
        assert ">49<" not in text
    assert page.get("/jobs.json").json()["jobs"][0]["name"] == name


def test_what_acts_on_a_terminal_or_reorders_letters_is_visible(page: TestClient, store: WorkingStore) -> None:
    """Texts of services may have anything: escape sequences and marks of direction are shown as such."""
    store.submit([command()])
    (claim,) = store.claim(ClaimRequest("w", 1, 15.0, selection(backends={"fake": "a"})))
    store.finish(claim, Outcome.timeout(_failure("\x1b[31mred\x1b[0m \u202egnp.exe")))

    for text in (page.get("/job", params={"id": claim.job_id}).text, page.get("/jobs").text):
        assert "\\x1b[31mred" in text
        assert "\\u202egnp" in text
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_the_list_in_pages_and_by_condition(page: TestClient, store: WorkingStore) -> None:
    """Each job is on one page of the list; a condition keeps for the pages that follow."""
    store.submit([command(tags=["even" if number % 2 else "odd"]) for number in range(120)])

    seen, after = [], None
    while True:
        found = page.get("/jobs.json", params={"after": after} if after else {}).json()
        seen += [job["id"] for job in found["jobs"]]
        after = found["next"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 120
    assert len(page.get("/jobs.json?tag=even").json()["jobs"]) == 50
    (link,) = re.findall(r'href="(/jobs\?[^"]*after=[^"]+)"', page.get("/jobs?tag=even&kind=").text)
    assert "tag=even" in link
    assert "kind=&" in link


def test_comparison_shows_what_differs_alone(page: TestClient, store: WorkingStore) -> None:
    """Equal fields are left out, and a value that a job lacks is a gap."""
    jobs = [training_job("a"), training_job("b", learning_rate=3e-4, metadata={"note": "hot"})]
    store.submit(jobs)

    found = page.get("/compare.json", params={"id": [job.id for job in jobs]}).json()

    assert {row["field"]: row["values"] for row in found["differences"]} == {
        "metadata.note": [None, "hot"],
        "optimizer.learning_rate": ["0.0001", "0.0003"],
    }


def test_workers_and_limits(page: TestClient, store: WorkingStore) -> None:
    """With their load, and a limit with its use."""
    add_workers(store)
    store.set_tenant_quota("default", 8)

    workers = page.get("/workers.json").json()["workers"]
    assert {(worker["host"], worker["state"]) for worker in workers} == {("host-1", "alive"), ("host-2", "alive")}
    assert workers[0]["backends"] == ["fake", "tinkex"]
    assert workers[0]["declined"] == {"peft": "torch is not installed"}
    assert page.get("/queue.json").json()["limits"] == [
        {"scope": "tenant", "key": "default", "model": None, "max_running": 8, "running": 0}
    ]


def test_why_a_job_waits(page: TestClient, store: WorkingStore) -> None:
    """On its page, in the list, in the queue and on the overview."""
    job = command()
    store.submit([job])

    for path in ("/", "/jobs", "/queue"):
        assert "no worker is alive" in page.get(path).text, path
    assert "no worker is alive" in page.get("/job", params={"id": job.id}).text


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("/jobs?status=nope", 400, "status"),
        ("/jobs?colour=red", 400, "colour"),
        ("/workers?all=perhaps", 400, "all"),
        ("/job", 400, "id"),
        ("/job?id=nope", 404, "nope"),
        ("/jobs?after=nope", 404, "nope"),
        ("/compare?" + "&".join(f"id={number}" for number in range(9)), 400, "id"),
        ("/live/job?id=nope", 404, "nope"),
    ],
)
def test_a_wrong_address_names_what_is_wrong(page: TestClient, path: str, status: int, named: str) -> None:
    """As a page, and as JSON on a twin."""
    answer = page.get(path)
    assert answer.status_code == status
    assert named in answer.text
    if not path.startswith("/live"):
        twin = page.get(path.replace("?", ".json?", 1) if "?" in path else f"{path}.json")
        assert twin.status_code == status
        assert named in twin.json()["error"]["message"]


def test_a_curve_is_reduced_in_the_query(page: TestClient, store: WorkingStore) -> None:
    """To about 800 points; an outlier among them is in the band, and the newest step is the last point."""
    job = training_job(max_steps=5_000)
    store.submit([job])
    run = StoredRun(store, job, 5_000)
    run.write()
    _set_loss(store, run.seq, 3_210, 77.0)

    curve = page.get("/job/curve.json", params={"id": job.id}).json()

    assert curve["width"] == 7
    assert 700 < len(curve["steps"]) <= 802
    assert curve["steps"][-1] == 5_000
    assert max(curve["high"]) == 77.0
    assert max(curve["loss"]) < 77.0
    assert 'class="band"' in page.get("/job", params={"id": job.id}).text


def test_many_evaluations_are_a_line_of_some_of_them(page: TestClient, store: WorkingStore) -> None:
    """At even distances over the whole run, with the last one; an overview still finds the run's recoveries."""
    job = training_job(max_steps=9_000)
    store.submit([job])
    StoredRun(store, job, 9_000).write()

    marks = page.get("/job/curve.json", params={"id": job.id}).json()["evaluations"]
    assert marks["steps"][0] < 100
    assert marks["steps"][-1] == 9_000
    assert 200 < len(marks["steps"]) <= 300
    assert len(marks["values"]) == len(marks["steps"])
    text = page.get("/job", params={"id": job.id}).text
    assert 'class="evaluations"' in text
    assert 'class="evaluation"' not in text


def test_incidents_of_long_runs_are_found(
    page: TestClient, store: WorkingStore, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps of it, and events of other jobs, came later."""
    monkeypatch.setattr(job_log, "MAX_SEARCHED", 3)

    incidents = page.get("/overview.json").json()["incidents"]

    names = ["resume.verified", "resume.restored", "training.incident", "resume.warm"]
    assert [line["event"] for line in incidents] == names


def test_a_store_that_is_away(page: TestClient, settings: Settings, run_id: str) -> None:
    """Each page says so with status 503, and answers again when the file is back."""
    file = settings.home / "nsai-work.db"
    kept = file.rename(file.with_name("kept.db"))

    away = page.get("/job", params={"id": run_id})
    assert away.status_code == 503
    assert "The job store does not answer" in away.text
    assert page.get("/jobs.json").json()["error"]["code"] == "store_unavailable"
    assert not file.exists()  # a page makes no store

    kept.rename(file)
    assert page.get("/job", params={"id": run_id}).status_code == 200


def test_another_store_in_its_place(page: TestClient, settings: Settings, run_id: str) -> None:
    """A replaced file is read anew, not its unlinked predecessor."""
    assert page.get("/jobs.json").json()["counts"]["running"] == 1
    for suffix in ("", "-wal", "-shm"):
        Path(f"{settings.home / 'nsai-work.db'}{suffix}").unlink(missing_ok=True)
    (settings.home / "nsai-work.db").write_bytes(sqlite_template().read_bytes())

    assert page.get("/jobs.json").json()["counts"]["running"] == 0


def test_answers_carry_a_strict_policy(page: TestClient) -> None:
    """Only scripts with the nonce of the answer run, and nothing comes from elsewhere."""
    first, second = page.get("/"), page.get("/")

    policy = first.headers["content-security-policy"]
    (nonce,) = re.findall(r"script-src 'nonce-([\w-]{16,})'", policy)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    scripts = re.findall(r"<script[^>]*>", first.text)
    assert scripts
    assert all(f'nonce="{nonce}"' in script for script in scripts)
    assert policy != second.headers["content-security-policy"]
    assert not re.search(r'style="|onclick|(?:src|href)="https?:', first.text)
    assert first.headers["cache-control"] == "no-store"


def _failure(message: str):
    from crucible.errors import Failure

    return Failure(category="backend", code="broken", message=message)


def _set_loss(store: WorkingStore, seq: int, step: int, loss: float) -> None:
    from sqlalchemy import update

    from nsai_work.store.schema import steps

    with store.database.transaction() as tx:
        tx.connection.execute(update(steps).where(steps.c.job_seq == seq, steps.c.step == step).values(loss=loss))


def test_a_part_of_an_id_is_enough(page: TestClient, run_id: str) -> None:
    """As commands print it: the page, its twin, its curve and a comparison find the job."""
    part = run_id[-8:]

    assert page.get("/job", params={"id": part}).status_code == 200
    assert page.get("/job.json", params={"id": part}).json()["id"] == run_id
    whole, found = (page.get("/job/curve.json", params={"id": text}).json() for text in (run_id, part))
    assert found == whole
    jobs = page.get("/compare.json", params={"id": [part, run_id]}).json()["jobs"]
    assert [job["line"]["id"] for job in jobs] == [run_id]
    assert page.get("/job.json", params={"id": run_id[-3:]}).status_code == 404


def test_an_unknown_path_is_an_error_like_any_other(page: TestClient) -> None:
    """As JSON for the name of a twin, else as a page; both list the pages, and show the path as text."""
    twin, other = page.get("/job-list.json"), page.get("/<script>alert(1)</script>")

    assert (twin.status_code, other.status_code) == (404, 404)
    error = twin.json()["error"]
    assert (error["code"], error["category"]) == ("not_found", "validation")
    assert error["message"].startswith("there is no page /job-list.json; pages are /, /jobs, ")
    assert "there is no page /&lt;script&gt;alert(1)" in other.text
    assert '<a href="/jobs"' in other.text
