"""The page in headless Chromium, against a real store: a run that is killed and corrupted while it is watched.

Needs ``NSAI_TEST_CHROMIUM``, the path of the browser, and for the check of accessibility ``NSAI_TEST_AXE``, that of
axe-core's ``axe.min.js``. ``.ci/browser.py`` provides both.
"""

import contextlib
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from nsai_work import Settings, submit
from nsai_work.page.server import PageOptions, page_thread
from tests.chaos import harness
from tests.conversations import write_conversations
from tests.page.browser import Browser, Tab, chromium
from tests.page.conftest import TOKEN
from tests.page.runs import StoredRun, add_workers, training_job
from tests.rig import Rig, until
from tests.working_store import WorkingStore

STEPS = 100
"""So many that the run still goes on when its takeover is on a busy machine's screen."""
WATCH_STEPS = """
(() => {
  window.seen = [];
  const look = () => {
    const step = Number(document.getElementById("curve").dataset.step || 0);
    while (window.seen.length <= step) window.seen.push(Date.now());
    setTimeout(look, 5);
  };
  look();
})()
"""
FOCUSABLE = """
[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, [tabindex="0"]')]
  .filter((each) => each.checkVisibility()).length
"""


def needed(variable: str) -> str:
    """The file that a variable names. Skips the test without one, unless browsers are required here."""
    value = os.environ.get(variable, "")
    if value:
        return value
    message = f"set {variable} to run the tests in a browser; .ci/browser.py provides it"
    if os.environ.get("NSAI_TEST_REQUIRE_BROWSER"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A running Chromium."""
    with chromium(needed("NSAI_TEST_CHROMIUM"), tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


CURVE_READS = "performance.getEntriesByType('resource').filter(({name}) => /curve.json/.test(name)).length > 1"
CUT = (
    "[...document.querySelectorAll('table.cards')].filter((each) => each.scrollWidth > each.parentNode.clientWidth)"
)


@contextmanager
def quiet_tab(browser: Browser, url: str) -> Iterator[Tab]:
    """A tab of the page at ``url``, whose console must stay empty, and which must ask for nothing elsewhere."""
    tab = browser.tab()
    try:
        yield tab
    finally:
        browser.close(tab)
    assert tab.problems == []
    assert {request for request in tab.requests if not request.startswith((url, "about:"))} == set()


def is_live(tab: Tab) -> None:
    """Wait until the page follows the store."""
    tab.until("document.getElementById('state').textContent === 'live'", "the page is live")


def test_a_run_is_killed_and_corrupted_while_it_is_watched(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is on the curve soon after its commit, both recoveries are marked, and the end is shown."""
    rig = Rig.embedded(tmp_path)
    data = write_conversations(tmp_path / "data.jsonl", 12)
    with harness.training_service(tmp_path / "service", work_ms=25) as service:
        rig.variables = harness.service_variables(service)
        for name, value in rig.variables.items():
            monkeypatch.setenv(name, value)
        job = harness.training_job(data, steps=STEPS, seed=3)
        handle = submit(job, settings=rig.settings())
        with page_thread(rig.settings(), PageOptions()) as url, quiet_tab(browser, url) as tab:
            tab.view(width=1400)
            tab.open(f"{url}/job?{urlencode({'id': handle.id})}")
            is_live(tab)
            tab.run(WATCH_STEPS)
            first = rig.start_worker()
            rig.start_worker()
            tab.until("window.seen.length > 15", "the curve has 15 steps")

            first.kill()
            tab.until("document.getElementById('curve').dataset.recoveries?.includes('warm')", "the takeover")
            run = rig.store.runs(handle.id)[-1].ref.run_id
            service.fault(kind="corrupt", model_id=run)
            shown = "/exact|unverified/.test(document.getElementById('curve').dataset.recoveries)"
            tab.until(shown, "the restore")
            tab.until("document.querySelector('.pill').textContent === 'succeeded'", "the end", timeout_s=60)

            tab.until(f"document.getElementById('curve').dataset.step === '{STEPS}'", "the curve is whole")
            assert handle.steps()[-1].step == STEPS
            _print_delays(rig, handle.id, tab.run("window.seen"))
    rig.close()


def _print_delays(rig: Rig, job_id: str, seen: list[int]) -> None:
    """Print how long after its transaction began each step was on the screen."""
    delays = [
        seen[record.step] - record.recorded_at.timestamp() * 1000
        for record in rig.store.steps(job_id)
        if record.recorded_at is not None and record.generation == 1
    ]
    print(  # noqa: T201 - a measurement, which no test can hold on a loaded machine
        f"\non screen after the commit of a step: median {statistics.median(delays):.0f} ms,"
        f" 95 % {statistics.quantiles(delays, n=20)[-1]:.0f} ms, all {max(delays):.0f} ms ({len(delays)} steps)"
    )


@pytest.fixture
def shown(settings: Settings, store: WorkingStore) -> Iterator[tuple[str, dict[str, str]]]:
    """The page over a store with runs and hostile names: its URL, and the paths of its pages."""
    jobs = [
        training_job("tides-sft-7"),
        training_job("<script>alert(1)</script>" * 8, learning_rate=3e-4),
        training_job("שלום عالم " + "x" * 150, tags=("y" * 200,)),
        training_job(),
    ]
    store.submit(jobs)
    StoredRun(store, jobs[0], 148).write()
    StoredRun(store, jobs[1], 200, runs=False).write()
    add_workers(store)
    store.set_tenant_quota("default", 8)
    ids = [job.id for job in jobs]
    paths = {path: path for path in ("/", "/jobs", "/compare", "/queue", "/workers", "/sign-in")}
    paths |= {f"job {number}": f"/job?{urlencode({'id': each})}" for number, each in enumerate(ids)}
    paths["comparison"] = f"/compare?{urlencode([('id', each) for each in ids])}"
    with page_thread(settings.model_copy(update={"page_token": TOKEN}), PageOptions()) as url:
        yield url, paths


def test_no_page_is_wider_than_a_narrow_window(browser: Browser, shown: tuple[str, dict[str, str]]) -> None:
    """Of 480 pixels, whatever the names; lists of jobs, attempts and workers are whole; and no page writes to the
    console."""
    url, paths = shown
    with quiet_tab(browser, url) as tab:
        tab.view(width=480)
        wide = {}
        for name, path in paths.items():
            tab.open(url + path)
            if path != "/sign-in":
                is_live(tab)
            wide[name] = tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert tab.run(f"{CUT}.length") == 0, name
        assert {name: width for name, width in wide.items() if width > 0} == {}


def test_axe_finds_no_serious_fault(browser: Browser, shown: tuple[str, dict[str, str]]) -> None:
    """On any page, in either colour scheme."""
    axe = Path(needed("NSAI_TEST_AXE")).read_text()
    url, paths = shown
    faults: dict[str, Any] = {}
    with quiet_tab(browser, url) as tab:
        for dark in (False, True):
            tab.view(width=1400, dark=dark)
            for name in ("/", "/jobs", "/queue", "/workers", "/sign-in", "job 0", "job 1", "comparison"):
                path = paths[name]
                tab.open(url + path)
                tab.run(axe + "; 0")
                found = tab.run(
                    "axe.run({resultTypes: ['violations']}).then(({violations}) => violations.map((each) =>"
                    " [each.impact, each.id, each.nodes.slice(0, 3).map((node) => node.html)]))"
                )
                if serious := [fault for fault in found if fault[0] in ("serious", "critical")]:
                    faults[f"{name}, {'dark' if dark else 'light'}"] = serious
    assert faults == {}


def test_the_keyboard_reaches_everything(browser: Browser, shown: tuple[str, dict[str, str]]) -> None:
    """By Tab, on each page; and the arrow keys read the curve."""
    url, paths = shown
    with quiet_tab(browser, url) as tab:
        tab.view(width=1400)
        for path in paths.values():
            tab.open(url + path)
            if path != "/sign-in":
                is_live(tab)
            wanted = tab.run(FOCUSABLE)
            tab.run("window.reached = new Set(); 0")
            for _ in range(wanted + 2):
                tab.press("Tab")
                tab.run("window.reached.add(document.activeElement); 0")
            assert tab.run("[...window.reached].filter((each) => each !== document.body).length") >= wanted, path
        tab.open(url + paths["job 0"])
        tab.until("!!document.querySelector('#curve canvas')", "the curve")
        tab.run("document.getElementById('curve').focus(); 0")
        tab.press("End")
        tab.press("ArrowLeft")
        assert tab.run("document.getElementById('readout').textContent").startswith("step 147 · loss 0.")


def test_a_choice_survives_a_change_of_the_page(
    browser: Browser, store: WorkingStore, shown: tuple[str, dict[str, str]]
) -> None:
    """A box that is ticked stays with its job when a new job comes before it."""
    url, _ = shown
    with quiet_tab(browser, url) as tab:
        tab.open(url + "/jobs")
        is_live(tab)
        box = "document.querySelector('tbody tr:nth-child(2) input')"
        chosen = tab.run(f"{box}.click(), {box}.focus(), {box}.value")
        store.submit([training_job("newest")])
        tab.until("document.querySelector('tbody').textContent.includes('newest')", "the new job")

        ticked = "[...document.querySelectorAll('tbody input:checked')].map((each) => each.value).join()"
        assert tab.run(ticked) == chosen
        assert tab.run("document.activeElement.value") == chosen


def test_a_page_is_live_whichever_script_comes_last(browser: Browser, shown: tuple[str, dict[str, str]]) -> None:
    """And so late that all others have run, with their timers."""
    url, paths = shown
    with quiet_tab(browser, url) as tab:
        tab.open(url + paths["job 0"])
        names = list(tab.run("[...document.scripts].map((each) => each.src.split('/').pop())"))
    assert len(names) == 4
    for late in names:
        with quiet_tab(browser, url) as tab:
            tab.call("Network.setCacheDisabled", cacheDisabled=True)
            tab.hold(f"*/{late}")
            tab.call("Page.navigate", url=url + paths["job 0"])
            number = tab.held_request(late)
            loaded = "performance.getEntriesByType('resource').filter((each) => each.name.endsWith('.js')).length"
            tab.until(f"{loaded} >= {len(names) - 1}", "the other scripts")
            tab.run("new Promise((done) => setTimeout(() => setTimeout(done)))")
            tab.call("Fetch.continueRequest", requestId=number)
            is_live(tab)


@pytest.mark.parametrize("status", [None, 503])
def test_a_stream_that_fails_at_first_is_asked_for_again(
    browser: Browser, shown: tuple[str, dict[str, str]], status: int | None
) -> None:
    """The page says so, keeps what it shows, and is live once the server answers."""
    url, paths = shown
    tab = browser.tab()
    try:
        tab.hold("*/live/*")
        tab.call("Page.navigate", url=url + paths["job 0"])
        number = tab.held_request("/live/job")
        if status is None:
            tab.call("Fetch.failRequest", requestId=number, errorReason="ConnectionReset")
        else:
            tab.call("Fetch.fulfillRequest", requestId=number, responseCode=status, body="")
        tab.until("document.getElementById('state').textContent.startsWith('the page')", "the page says so")
        assert tab.run("document.querySelector('main h1').textContent").startswith("tides-sft-7")
        tab.call("Fetch.continueRequest", requestId=tab.held_request("/live/job"))
        is_live(tab)
    finally:
        browser.close(tab)


def test_with_scripts_off_the_server_draws(browser: Browser, shown: tuple[str, dict[str, str]]) -> None:
    """The curve with its marks, and a link to every page."""
    url, paths = shown
    with quiet_tab(browser, url) as tab:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.call("Page.navigate", url=url + paths["job 0"])

        def count(selector: str) -> int:
            # the document may be replaced between the two calls, while it is loaded
            with contextlib.suppress(AssertionError):
                root = tab.call("DOM.getDocument")["root"]["nodeId"]
                return len(tab.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"])
            return 0

        until(lambda: count("#curve svg .line") == 1, "the server's curve")
        assert count("#curve svg .recovery") == 2
        assert count("header nav a") == 5


def test_the_store_goes_away_and_comes_back(
    browser: Browser, settings: Settings, shown: tuple[str, dict[str, str]]
) -> None:
    """An open page keeps what it showed and says so; a page that is opened meanwhile comes back by itself."""
    url, paths = shown
    file = settings.home / "nsai-work.db"
    with quiet_tab(browser, url) as tab:
        tab.open(url + paths["job 0"])
        is_live(tab)
        tab.until(CURVE_READS, "the curve is read at the start, and again for the stream")
        kept = file.rename(file.with_name("kept.db"))
        tab.until("document.getElementById('state').textContent.startsWith('the job store does not answer')")
        assert tab.run("document.querySelector('h1').textContent").startswith("tides-sft-7")
        other = browser.tab()
        other.open(url + paths["job 0"])
        assert other.run("document.querySelector('h1').textContent") == "The job store does not answer"

        kept.rename(file)
        other.until("document.querySelector('h1')?.textContent.startsWith('tides-sft-7')", "it comes back")
        # a page in the background pauses, and goes on when it is shown
        tab.call("Page.bringToFront")
        is_live(tab)


def test_sign_in_and_cancel(browser: Browser, store: WorkingStore, shown: tuple[str, dict[str, str]]) -> None:
    """In the browser, with its cookies and origins."""
    url, paths = shown
    with quiet_tab(browser, url) as tab:
        tab.open(url + "/sign-in")
        tab.run(f"document.getElementById('token').value = {TOKEN!r}; 0")
        tab.run("document.querySelector('button.main').focus(); 0")
        tab.press("Enter")
        tab.until("document.body?.textContent.includes('Sign out')", "the session")

        tab.open(url + paths["job 3"])
        tab.run("document.querySelector('.title button').focus(); 0")
        tab.press("Enter")
        tab.until("document.querySelector('.pill')?.textContent === 'canceled'", "the job is canceled")
