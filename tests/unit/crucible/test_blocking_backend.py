"""The blocking face gives what the async one gives, from plain code and from threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from crucible import CallerError, InvalidRequest, Options, Prompt, UnknownBackend, connect, fold

PROMPT = Prompt(messages=[{"role": "user", "content": "Hi"}], options=Options(max_tokens=8, seed=1))


def test_a_stream_is_the_completion() -> None:
    """Both ways, the same answer."""
    with connect("fake") as backend:
        completion = backend.complete(PROMPT)
        folded = fold(backend.stream(PROMPT))

        assert folded.choices == completion.choices
        assert backend.capabilities().backend_id == "fake"
        assert backend.health_check().ok


def test_leaving_a_stream_early_leaves_the_backend_usable() -> None:
    """What is not read is not waited for."""
    with connect("fake") as backend:
        for event in backend.stream(PROMPT):
            assert event.seq == 0
            break
        assert backend.complete(PROMPT).choices


def test_errors_come_through() -> None:
    """As they are, to the one who asked."""
    unknown = PROMPT.model_copy(update={"options": Options(model="fake://gone/weights/a")})
    with connect("fake") as backend:
        with pytest.raises(InvalidRequest, match="does not exist"):
            backend.complete(unknown)
        with pytest.raises(InvalidRequest, match="does not exist"):
            list(backend.stream(unknown))


def test_many_threads_share_one() -> None:
    """A backend answers several callers at once."""
    with connect("fake") as backend, ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: backend.complete(PROMPT).text, range(16)))

    assert len(answers) == 1


def test_a_backend_that_is_not_open_says_so() -> None:
    """Before the block and after it."""
    backend = connect("fake")
    with pytest.raises(CallerError, match="with connect"):
        backend.complete(PROMPT)
    with backend:
        pass
    with pytest.raises(CallerError, match="with connect"):
        backend.complete(PROMPT)


def test_a_wrong_name_or_setting_fails_before_anything_is_opened() -> None:
    """At connect, not at the first question."""
    with pytest.raises(UnknownBackend):
        connect("nope")
    with pytest.raises(InvalidRequest, match="scrip"):
        connect("fake", {"scrip": {}})
