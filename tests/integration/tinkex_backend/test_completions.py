"""Completions from base models, checkpoints and runs, over real HTTP."""

import asyncio

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible import CredentialMissing, FinishReason, InvalidRequest, Options, Prompt, RequestTimeout, connect, fold
from crucible.testing.loop import run_opened
from crucible.training import RunSpec


def prompt(text: str = "Who barks?", **options: object) -> Prompt:
    """A short prompt."""
    return Prompt(messages=[{"role": "user", "content": text}], options=Options.model_validate(options))


def test_trained_weights_answer_better_than_the_base(training, backend: TinkexBackend) -> None:
    """By path and by the run's id alike, a training prompt gets its answer."""

    async def body(opened: TinkexBackend) -> list[str]:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 60)
        saved = await training.save_sampler(run, "final", 60)
        fixed = {"temperature": 0.0, "max_tokens": 24}
        models = ("tiny-lm", saved.path, run.ref.run_id)
        return [(await opened.complete(prompt(model=model, **fixed))).text for model in models]

    base, by_path, by_run = run_opened(backend, body)

    assert by_path == by_run == "The dog barks."
    assert base != by_path


def test_a_run_is_found_by_its_name(training, backend: TinkexBackend) -> None:
    """The name it was given in its user metadata means its newest weights."""

    async def body(opened: TinkexBackend) -> object:
        spec = training.spec.model_copy(update={"user_metadata": {"name": "my-run"}})
        run = await opened.start(spec)
        await training.steps(run, 1, 1)
        await training.save_sampler(run, "a", 1)
        await training.steps(run, 2, 1)
        newest = await training.save_sampler(run, "b", 2)
        completion = await opened.complete(prompt(model="my-run", max_tokens=2))
        return completion.model, completion.metadata["model_path"] == newest.path

    assert run_opened(backend, body) == ("my-run", True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt-nothing", "the base models tiny-lm"),
        ("tinker://nobody/sampler_weights/none", "tinker://nobody/sampler_weights/none"),
        ("tinker://nobody", "the form is"),
        ("https://example.org/weights", "the form is"),
    ],
    ids=["unknown", "missing", "malformed", "foreign"],
)
def test_a_model_that_means_nothing_is_refused(backend: TinkexBackend, model: str, message: str) -> None:
    """With the field, the name and what is allowed."""
    with pytest.raises(InvalidRequest, match=r"options\.model") as caught:
        run_opened(backend, lambda opened: opened.complete(prompt(model=model)))

    assert message in str(caught.value)
    assert model in str(caught.value)


def test_a_run_without_weights_is_refused(training, backend: TinkexBackend) -> None:
    """There is nothing to sample from yet."""

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        with pytest.raises(InvalidRequest, match="no weights for sampling"):
            await opened.complete(prompt(model=run.ref.run_id))

    run_opened(backend, body)


def test_stop_sequences_of_any_length_end_the_answer(training, backend: TinkexBackend) -> None:
    """One that is a single token and one that is several; the tokens end where the text does."""

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 60)
        model = (await training.save_sampler(run, "final", 60)).path
        for stop, text in ((("g",), "The do"), (("dog ba",), "The "), (("zebra",), "The dog barks.")):
            options = {"model": model, "temperature": 0.0, "max_tokens": 40, "stop": stop, "logprobs": True}
            choice = (await opened.complete(prompt(**options))).choices[0]
            assert choice.message.content == text
            assert choice.finish_reason is FinishReason.STOP
            assert choice.logprobs is not None
            assert choice.tokens is not None
            assert len(choice.logprobs) == len(choice.tokens) <= len("The dog barks.") + 1

    run_opened(backend, body)


def test_a_session_that_ended_meanwhile_is_made_again(server: DevServer, backend: TinkexBackend) -> None:
    """The laptop slept; the next completion just works."""

    async def body(opened: TinkexBackend) -> list[str]:
        first = await opened.complete(prompt(model="tiny-lm", seed=3, max_tokens=4))
        server.fault(kind="expire_session")
        second = await opened.complete(prompt(model="tiny-lm", seed=3, max_tokens=4))
        return [first.text, second.text]

    first, second = run_opened(backend, body)

    assert first == second


def test_a_time_limit_is_kept(server: DevServer, backend: TinkexBackend) -> None:
    """The error names the option."""
    server.fault(kind="latency", work_ms=5000)
    with pytest.raises(RequestTimeout, match="timeout_ms=50"):
        run_opened(backend, lambda opened: opened.complete(prompt(model="tiny-lm", timeout_ms=50)))


def test_many_at_once_share_one_loop(backend: TinkexBackend) -> None:
    """Each gets its own answer."""

    async def body(opened: TinkexBackend) -> list[str]:
        pending = [opened.complete(prompt(f"Say {n}", model="tiny-lm", seed=n, max_tokens=4)) for n in range(40)]
        return [completion.trace_id or completion.text for completion in await asyncio.gather(*pending)]

    assert len(run_opened(backend, body)) == 40


def test_connect_finds_a_server_by_the_environment(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user types it: nothing but the name."""
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-dev")
    request = prompt(model="llama-3.2-1b", max_tokens=6, temperature=0)

    with connect("tinkex") as backend:
        capabilities = backend.capabilities()
        completion = backend.complete(request)
        folded = fold(backend.stream(request))

    assert {"llama-3.2-1b", "llama-3.2-3b", "qwen/qwen2.5-7b"} <= set(capabilities.models)
    assert capabilities.supports_training
    assert capabilities.supports_streaming
    assert folded.choices == completion.choices


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://example.org"}, "TINKER_API_KEY"),
        ({"base_uri": "http://127.0.0.1:1"}, "base_uri"),
        ({"loss_tolerance": -1}, "loss_tolerance"),
    ],
    ids=["no scheme", "no key", "unknown", "negative"],
)
def test_wrong_settings_are_refused_when_it_is_made(config: dict[str, object], message: str) -> None:
    """Before anything is opened, naming the setting."""
    with pytest.raises((InvalidRequest, CredentialMissing), match=message):
        TinkexBackend(config)


def test_a_key_never_shows_in_an_error() -> None:
    """Not even when another setting beside it is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        TinkexBackend({"api_key": ["tml-secret"], "base_url": 3})

    assert "tml-secret" not in f"{caught.value!r} {caught.value.details}"


def test_a_server_that_is_away_is_not_healthy(server: DevServer, backend: TinkexBackend) -> None:
    """An answer, not an exception."""
    url = server.url
    server.stop()
    health = run_opened(TinkexBackend({"base_url": url, "ask_within_s": 0.2}), lambda opened: opened.health_check())

    assert not health.ok
    assert health.details["code"] == "backend_unavailable"


def test_a_spec_is_checked_by_what_the_service_trains(backend: TinkexBackend) -> None:
    """The error lists what there is."""
    with pytest.raises(InvalidRequest, match=r"base_model: 'gpt-nothing'.*tiny-lm"):
        run_opened(backend, lambda opened: opened.check_spec(RunSpec(base_model="gpt-nothing")))
