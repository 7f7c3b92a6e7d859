"""Actions: for people who are signed in, from the page itself, with the key of their session."""

import pytest
from starlette.testclient import TestClient

from nsai_work import Settings
from nsai_work.lifecycle import JobStatus
from nsai_work.page.application import PageApp
from nsai_work.page.session import MAX_AGE_S, PageSessions
from nsai_work.testing.clock import virtual_clock
from tests.page.conftest import HOME, TOKEN, form_key
from tests.rig import command
from tests.working_store import WorkingStore

FROM_HERE = {"Origin": HOME}


@pytest.fixture
def waiting(store: WorkingStore) -> str:
    """The id of a job that waits."""
    job = command()
    store.submit([job])
    return job.id


def test_cancel_and_retry(signed_in: TestClient, store: WorkingStore, waiting: str) -> None:
    """The forms of the page do what their buttons say."""
    page = signed_in.get("/job", params={"id": waiting}).text
    assert "Retry</button>" not in page

    answer = signed_in.post("/job/cancel", data={"id": waiting, "key": form_key(page)}, headers=FROM_HERE)
    assert store.get(waiting).status is JobStatus.CANCELED
    assert "Retry</button>" in answer.text

    signed_in.post("/job/retry", data={"id": waiting, "key": form_key(page)}, headers=FROM_HERE)
    assert store.get(waiting).status is JobStatus.QUEUED


def test_promote(signed_in: TestClient, store: WorkingStore, run_id: str) -> None:
    """A checkpoint is kept for good, and its button is gone."""
    page = signed_in.get("/job", params={"id": run_id}).text
    assert page.count("Promote</button>") == 4
    form = {"id": run_id, "key": form_key(page), "name": "g2-s000140"}

    answer = signed_in.post("/job/promote", data=form, headers=FROM_HERE)

    assert {each.name for each in store.checkpoints(run_id) if each.promoted} == {"g1-s000060", "g2-s000140"}
    assert answer.text.count("Promote</button>") == 3


def test_a_page_without_a_token_is_read_only(page: TestClient, store: WorkingStore, waiting: str) -> None:
    """It offers nothing to change, and refuses what is sent anyway."""
    text = page.get("/job", params={"id": waiting}).text
    assert "Cancel</button>" not in text
    assert "Sign in" not in text
    for form in ({"id": waiting}, {"id": waiting, "key": ""}):
        assert page.post("/job/cancel", data=form, headers=FROM_HERE).status_code == 403
    assert page.get("/sign-in").status_code == 404
    assert store.get(waiting).status is JobStatus.QUEUED


def test_a_session_needs_the_token(settings: Settings, store: WorkingStore, waiting: str) -> None:
    """Another token, an empty one and a forged cookie are refused."""
    application = PageApp(settings, token=TOKEN)
    client = TestClient(application.app, base_url=HOME)
    for token in ("", "wrong", TOKEN[:-1], TOKEN + "x"):
        answer = client.post("/sign-in", data={"token": token}, headers=FROM_HERE)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    for forged in ("", "x", "1.x.", f"9999999999.x.{'0' * 64}"):
        client.cookies.set(PageSessions(TOKEN).cookie, forged)
        assert "Cancel</button>" not in client.get("/job", params={"id": waiting}).text
        assert client.post("/job/cancel", data={"id": waiting, "key": "x"}, headers=FROM_HERE).status_code == 403
    application.close()


def test_the_token_never_reaches_the_browser(signed_in: TestClient, waiting: str) -> None:
    """Neither in a cookie nor in a page."""
    assert TOKEN not in str(signed_in.cookies)
    assert TOKEN not in signed_in.get("/job", params={"id": waiting}).text
    assert TOKEN not in repr(PageSessions(TOKEN))
    answer = signed_in.post("/sign-in", data={"token": TOKEN}, headers=FROM_HERE, follow_redirects=False)
    for flag in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert flag in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9"},
        {"Origin": "null"},
        {},
        {"Origin": HOME, "Sec-Fetch-Site": "cross-site"},
        {"Origin": HOME, "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://["},
    ],
    ids=str,
)
def test_forms_of_other_sites_are_refused(
    signed_in: TestClient, store: WorkingStore, waiting: str, headers: dict[str, str]
) -> None:
    """Even with the cookie and the right key."""
    key = form_key(signed_in.get("/job", params={"id": waiting}).text)

    answer = signed_in.post("/job/cancel", data={"id": waiting, "key": key}, headers=headers)

    assert answer.status_code == 403
    assert store.get(waiting).status is JobStatus.QUEUED


def test_a_form_needs_the_key_of_its_session(signed_in: TestClient, store: WorkingStore, waiting: str) -> None:
    """That of another session does not count, nor does a request without one; an error names the field."""
    other = form_key(signed_in.get("/job", params={"id": waiting}).text)
    signed_in.post("/sign-in", data={"token": TOKEN}, headers=FROM_HERE)

    for form, status in (
        ({"id": waiting, "key": other}, 403),
        ({"id": waiting, "key": ""}, 403),
        ({"id": waiting}, 400),
        ({"id": waiting, "key": other, "more": "x"}, 400),
        ({"id": waiting, "key": "x" * 20_000}, 400),
    ):
        assert signed_in.post("/job/cancel", data=form, headers=FROM_HERE).status_code == status
    assert signed_in.get("/job/cancel").status_code == 405
    assert store.get(waiting).status is JobStatus.QUEUED


def test_sign_out_ends_the_session(signed_in: TestClient, waiting: str) -> None:
    """In this browser."""
    signed_in.post("/sign-out", headers=FROM_HERE)

    assert "Cancel</button>" not in signed_in.get("/job", params={"id": waiting}).text


def test_a_session_ends_after_a_week() -> None:
    """By the clock, whatever the browser keeps."""
    from starlette.requests import Request
    from starlette.responses import Response

    sessions, response = PageSessions(TOKEN), Response()
    with virtual_clock() as clock:
        sessions.begin(response, secure=False)
        cookie = response.headers["set-cookie"].partition(";")[0]
        request = Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})

        assert sessions.form_key(request) is not None
        clock.advance(MAX_AGE_S + 1)
        assert sessions.form_key(request) is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8020", 200),
        ("[::1]:8020", 200),
        ("localhost", 200),
        ("10.1.2.3", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:8020", 421),
        ("", 421),
        ("[::1", 421),
    ],
)
def test_an_unknown_name_is_refused(page: TestClient, host: str, status: int) -> None:
    """A site that lets its name resolve to this machine reads nothing."""
    assert page.get("/overview.json", headers={"Host": host}).status_code == status


def test_a_name_can_be_allowed(settings: Settings, store: WorkingStore) -> None:
    """That one alone, in any case of its letters."""
    application = PageApp(settings, names=["Jobs.Example.org"])
    client = TestClient(application.app, base_url=HOME)
    assert client.get("/", headers={"Host": "jobs.example.ORG"}).status_code == 200
    assert client.get("/", headers={"Host": "example.org"}).status_code == 421
    application.close()
