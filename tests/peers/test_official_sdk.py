"""The official SDK, unchanged, on our development server; and our client beside it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from plan import Plan, plan
from provision import SDK_VERSIONS

from backends.tinkex_dev.server import DevServer

MODEL = "llama-3.2-1b"
NEWEST = SDK_VERSIONS[-1]
CLIENTS = (*SDK_VERSIONS, "ours", "ours-json")


@pytest.fixture(scope="module")
def rounds() -> dict[str, dict[str, Any]]:
    """What each client found, so that a round is done once."""
    return {}


@pytest.fixture
def found_by(rounds: dict[str, dict[str, Any]], provided: Any, round_of: Any, tmp_path: Path) -> Any:
    """The numbers of a client on a fresh server, by the SDK's version or ``ours`` (``ours-json``: on a server that
    takes no protobuf); run ids are left out."""

    def find(client: str) -> dict[str, Any]:
        if client not in rounds:
            ours = client.startswith("ours")
            python = Path(sys.executable) if ours else provided(f"sdk-{client}")
            module = "backends.tinkex" if ours else "tinker"
            with DevServer(tmp_path / client, seed=3, protobuf=client != "ours-json") as server:
                rounds[client] = without_run_ids(round_of(python, module, server.url, "tml-peers", the_plan()))
                steps = [entry["step"] for entry in server.log(kind="optim_step")]
                rounds[client]["applied"] = steps
        return rounds[client]

    return find


def the_plan() -> Plan:
    """The round that every client is asked to do."""
    return plan(MODEL)


def without_run_ids(found: dict[str, Any]) -> dict[str, Any]:
    """A run's id is random, and all else is to be equal."""
    run_id = found["saved"].removeprefix("tinker://").split("/")[0]
    result: dict[str, Any] = json.loads(json.dumps(found).replace(run_id, "RUN"))
    return result


@pytest.mark.parametrize("version", [*SDK_VERSIONS, "ours-json"])
def test_the_sdk_gets_the_very_numbers_that_our_client_gets(version: str, found_by: Any) -> None:
    """Losses, log-probabilities, samples, top-k, listings: one script, two clients, not one bit of difference;
    nor between our client's two encodings."""
    theirs, ours = found_by(version), found_by("ours")

    assert ours.keys() - theirs.keys() <= {"archive"}
    different = {name for name in theirs if theirs[name] != ours[name]}
    assert not different, {name: (theirs[name], ours[name]) for name in different}


@pytest.mark.parametrize("client", CLIENTS)
def test_training_learns_and_goes_on_exactly_from_a_save_with_its_optimizer(client: str, found_by: Any) -> None:
    """After a restore with the optimizer every number is as if the run had never stopped; without, it differs."""
    found = found_by(client)

    losses = [step["metrics"]["loss:sum"] for step in found["before"] + found["after"]]
    assert losses[-1] < losses[0]
    assert found["restored"] == found["after"]
    assert found["restored_cold"][0] == found["after"][0]
    assert found["restored_cold"][1:] != found["after"][1:]


@pytest.mark.parametrize("client", CLIENTS)
def test_samples_and_scores_come_from_the_weights_that_were_asked_for(client: str, found_by: Any) -> None:
    """A named save and an unnamed one give the same samples, the base model gives others, seeds repeat."""
    found = found_by(client)

    assert found["sampled_trained"] == found["sampled_direct"] != found["sampled_base"]
    first, *scored = found["scored_trained"]
    assert first is None
    assert scored == pytest.approx(found["looked"]["logprobs"][0][: len(scored)], rel=1e-4)
    assert found["top"][0] is None
    assert all(len(place) == the_plan()["top_k"] for place in found["top"][1:])
    greedy = found["sampled_trained"][1]
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_other_loss_trains(client: str, found_by: Any) -> None:
    """Importance sampling, PPO, CISPO and DRO give gradients that move the weights, each in its own way."""
    found = found_by(client)

    learnt = [
        found[f"{name}_learnt"]["metrics"]["loss:sum"] for name in ("importance_sampling", "ppo", "cispo", "dro")
    ]
    assert len(set(learnt)) == len(learnt)


@pytest.mark.parametrize("client", CLIENTS)
def test_checkpoints_are_listed_described_fetched_expired_published_and_deleted(client: str, found_by: Any) -> None:
    """What was saved can be looked after; what is gone is a 404."""
    found = found_by(client)

    middle, trained = "weights/middle", "sampler_weights/trained"
    assert found["listed"] == [[trained, "sampler", False, False], [middle, "training", False, False]]
    assert found["published"] == [[trained, "sampler", False, False], [middle, "training", True, True]]
    assert found["unpublished"] == found["listed"]
    kept = "weights/kept"
    assert [kept, "training", False, True] in found["expiring"]
    assert [kept, "training", False, False] in found["overwritten"]
    assert found["deleted"] == [[trained, "sampler", False, False], [kept, "training", False, False]]
    assert found["weights"] == [MODEL, True, the_plan()["rank"]]
    assert client == NEWEST or "adapter_model.safetensors" in found["archive"]
    assert (found["deleted_twice"], found["unknown_run"], found["corrupted"]) == (404, 404, False)


@pytest.mark.parametrize("client", CLIENTS)
def test_no_optimizer_step_was_lost_or_doubled(client: str, found_by: Any) -> None:
    """The server's own log: the run, its restored twins, and two steps for each of the other losses."""
    trained, restored, cold = [1, 2, 3, 4, 5, 6], [4, 5, 6], [1, 2, 3]
    expected = [*trained, *restored, *cold, *[1, 2] * 4]

    assert found_by(client)["applied"] == expected
