"""Our one client on servers that others wrote: what they offer works, what they lack is said by name."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign import Served
from foreign_round import Outcomes, mean_loss, whole_round
from plan import Plan, plan

from backends.tinkex import ServiceClient, types
from backends.tinkex.backend import TinkexBackend
from crucible.errors import BackendUnavailable, InvalidRequest, NotFound
from crucible.training import LoraSpec, RunFeatures, RunSpec

TUFT_FAILS = ("unpublish", "delete_again", "unknown_run", "unknown_checkpoint", "unloaded")
SAME = ("before", "after", "looked", "restored", "restored_cold", "scored_trained", "scored_base")
SAMPLED = ("sampled_trained", "sampled_direct", "sampled_base")


def client_of(served: Served) -> ServiceClient:
    """Our client, told nothing but where the server is."""
    return ServiceClient(served.key, served.url)


@pytest.fixture(scope="module")
def tuft_round(tuft: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """The whole round on TuFT."""
    with client_of(tuft) as service:
        yield whole_round(service, plan(tuft.base_model), tmp_path_factory.mktemp("tuft-round"))


@pytest.fixture(scope="module")
def skyrl_round(skyrl: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """The whole round on SkyRL."""
    with client_of(skyrl) as service:
        yield whole_round(service, plan(skyrl.base_model), tmp_path_factory.mktemp("skyrl-round"))


@pytest.mark.parametrize("name", ["tuft", "skyrl"])
def test_nothing_is_sent_ahead_where_requests_run_as_they_arrive(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked however near the server is: either it is known to run them so, or nothing is known."""
    served: Served = request.getfixturevalue(name)
    monkeypatch.setattr("backends.tinkex.client.training.channel.order_probe._WORTHWHILE_S", 0.0)

    async def features() -> RunFeatures:
        async with TinkexBackend({"base_url": served.url, "api_key": served.key}) as backend:
            run = await backend.start(RunSpec(base_model=served.base_model, lora=LoraSpec(rank=8, seed=0)))
            return run.features

    found = asyncio.run(features())
    print(f"{name}: orders {found.orders}, replays {found.replays}")  # noqa: T201

    assert found.orders is not True
    assert not found.sends_ahead


def check_that_what_is_lacking_is_named(done: Outcomes, served: Served) -> None:
    """An Unsupported says what is missing and where."""
    for name in done.unsupported:
        error = done.errors[name]
        assert error.details["server"] == served.url, name
        assert error.details["capability"], name


def test_tuft_does_the_round_and_what_it_lacks_is_named(tuft: Served, tuft_round: Outcomes) -> None:
    """Protobuf only, and strict: everything is accepted as we send it, and the numbers are the dummy's own."""
    print(report("TuFT 0.2.2", tuft_round))  # noqa: T201

    assert tuft_round.unsupported == {"stream", "archive", "archive_sampler", "ttl"}
    check_that_what_is_lacking_is_named(tuft_round, tuft)
    assert tuft_round.codes() == {
        "unknown_model": InvalidRequest.code,
        "unknown_weights": NotFound.code,
        # this server answers 500 where it does not find what is asked for
        **dict.fromkeys(TUFT_FAILS, BackendUnavailable.code),
    }
    assert tuft_round.values["features"].request_encoding == "protobuf"
    assert tuft_round.values["replay"] is False
    assert tuft_round.values["order"] is None, "nothing is sent ahead where repeats run again"
    first, again = (without_ids(tuft_round.values[name]) for name in ("sample", "sample_again"))
    assert first == again
    assert first["sequences"][0]["tokens"]


def test_skyrl_does_the_round_and_what_it_lacks_is_named(skyrl: Served, skyrl_round: Outcomes) -> None:
    """JSON only, no sessions, no deletion, archives of sampling weights alone...: the rest of the round works."""
    print(report("SkyRL 0.3.0", skyrl_round))  # noqa: T201

    assert skyrl_round.unsupported == {
        *("top", "stream", "list_user_checkpoints", "list_sessions", "get_session"),
        *("archive", "ttl", "publish", "unpublish", "delete", "delete_again"),
    }
    check_that_what_is_lacking_is_named(skyrl_round, skyrl)
    assert skyrl_round.values["archive_sampler"] is True
    assert skyrl_round.values["replay"] is False
    assert skyrl_round.values["order"] is None, "nothing is sent ahead where repeats run again"
    assert skyrl_round.values["restored"] == skyrl_round.values["restored_cold"]
    assert skyrl_round.values["features"].replays_seq_id is False


def test_on_skyrl_our_numbers_are_those_of_the_official_sdk(skyrl: Served, provided: Any, round_of: Any) -> None:
    """The same data and seed: losses and log-probabilities, step by step, and samples with a seed."""
    asked = plan(skyrl.base_model, stages=("train", "restore", "sample"))
    theirs = round_of(provided("sdk-0.24.1"), "tinker", skyrl.url, skyrl.key, asked)
    ours = round_of(Path(sys.executable), "backends.tinkex", skyrl.url, skyrl.key, asked)

    print("\nSkyRL 0.3.0, nats per token:  SDK 0.24.1", losses(theirs, asked), " ours", losses(ours, asked))  # noqa: T201
    assert losses(ours, asked) == losses(theirs, asked)
    for name in (*SAME, *SAMPLED):
        assert ours[name] == theirs[name], name


def without_ids(answer: types.SampleResponse) -> dict[str, Any]:
    """A whole sample without what names the request and its sequences, which no two requests share."""
    own: Any = {"request_id": True, "seq_id": True, "sequences": {"__all__": {"sequence_id"}}}
    return answer.model_dump(exclude=own)


def losses(found: dict[str, Any], asked: Plan) -> list[float]:
    """The mean loss of each step."""
    steps = [step["logprobs"] for step in found["before"] + found["after"]]
    return [mean_loss(step, batch) for step, batch in zip(steps, asked["batches"], strict=True)]


def report(name: str, done: Outcomes) -> str:
    """How each call ended, for the log."""
    worked = ", ".join(done.values)
    lacking = ", ".join(sorted(done.unsupported))
    return f"\n{name}\n  works: {worked}\n  Unsupported: {lacking}\n  refused: {done.codes()}"
