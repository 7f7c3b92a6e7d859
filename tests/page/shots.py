"""Screenshots of all pages, at 1400 and 480 pixels, light and dark: ``make page-shots``.

    python tests/page/shots.py FOLDER [PAGE...]

Needs ``NSAI_TEST_CHROMIUM``. The store is a temporary one with stored runs.
"""

import os
import random
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import update

from crucible.errors import InvalidRequest
from nsai_work import Job, Settings
from nsai_work.page.server import PageOptions, page_thread
from nsai_work.store import Store, open_store
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import attempts, jobs
from tests.page.browser import Tab, chromium
from tests.page.runs import StoredRun, add_rollouts, add_workers, reinforcement_job, training_job
from tests.rig import command

WIDTHS = (1400, 480)


def fill(store: Store) -> dict[str, str]:
    """Write jobs of every state. Returns the paths of the pages, by name."""
    runs = [training_job(f"tides-sft-{number}", learning_rate=rate) for number, rate in ((7, 1e-4), (8, 3e-4))]
    long_run = training_job("marsh-30k", max_steps=30_000)
    failed = training_job("tides-sft-9", learning_rate=3e-3)
    waiting = training_job("<b>not bold</b> \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED} " + "long " * 30)
    others = [command("noop"), command("noop", constraints={"not_before": "2099-01-01T00:00:00Z"}), command("noop")]
    learning = reinforcement_job("sums-rl")
    store.submit([*runs, failed, long_run, learning, waiting, *others])
    StoredRun(store, learning, 32).write()
    add_rollouts(store, learning, 32)
    StoredRun(store, runs[0], 148).write()
    StoredRun(store, runs[1], 200, runs=False, noise=random.Random(2)).write()
    StoredRun(store, long_run, 21_300).write()
    StoredRun(store, failed, 90).write()
    fail(store, failed)
    store.request_cancel(others[2].id)
    add_workers(store)
    store.set_tenant_quota("default", 8)
    store.set_model_limit("team-a", 4)
    return {
        "overview": "/",
        "jobs": "/jobs",
        "job": f"/job?{urlencode({'id': runs[0].id})}",
        "job-ended": f"/job?{urlencode({'id': runs[1].id})}",
        "job-failed": f"/job?{urlencode({'id': failed.id})}",
        "job-long": f"/job?{urlencode({'id': long_run.id})}",
        "job-rollouts": f"/job?{urlencode({'id': learning.id})}",
        "job-waiting": f"/job?{urlencode({'id': waiting.id})}",
        "compare": f"/compare?{urlencode([('id', job.id) for job in runs])}",
        "queue": "/queue",
        "workers": "/workers",
    }


def fail(store: Store, job: Job) -> None:
    """End a stored run with an error."""
    error = InvalidRequest("learning_rate: the loss is no number since step 88; use a smaller one").failure()
    now = datetime.now(UTC)
    with store.database.transaction() as tx:
        ended = {"status": "failed", "error": failure_json(error), "completed_at": now}
        tx.connection.execute(update(jobs).where(jobs.c.id == job.id).values(ended))
        own = (attempts.c.job_seq == seq_of(tx, job.id)) & attempts.c.outcome.is_(None)
        last = {"outcome": "failed", "failure": failure_json(error), "ended_at": now}
        tx.connection.execute(update(attempts).where(own).values(last))


def shoot(tab: Tab, url: str, folder: Path, name: str) -> None:
    """Write the screenshots of a page."""
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            tab.view(width=width, height=900, dark=scheme == "dark")
            tab.open(url)
            tab.until("document.getElementById('state').textContent === 'live'")
            tab.until("!document.getElementById('curve') || !!document.querySelector('#curve canvas')")
            tab.screenshot(folder / f"{name}-{width}-{scheme}.png")


def main() -> None:
    """Write all screenshots into the folder of the command line."""
    folder, chosen = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    executable = os.environ.get("NSAI_TEST_CHROMIUM")
    if not executable:
        sys.exit('set NSAI_TEST_CHROMIUM: eval "$(python3 .ci/browser.py)"')
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        settings = Settings(home=Path(home))
        store = open_store(settings.database_url)
        pages = fill(store)
        with page_thread(settings, PageOptions()) as url, chromium(executable, Path(profile)) as browser:
            tab = browser.tab()
            for name, path in pages.items():
                if not chosen or name in chosen:
                    shoot(tab, url + path, folder, name)
            shots = len(list(folder.glob("*.png")))
        store.close()
    sys.stdout.write(f"{shots} screenshots in {folder}\n")


if __name__ == "__main__":
    main()
