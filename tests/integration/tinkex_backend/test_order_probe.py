"""Whether a server runs requests by their numbers: asked without harm, and only where that is worth its time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex.run import TinkexRun
from backends.tinkex_dev.options import Order
from backends.tinkex_dev.server import DevServer
from crucible.training import Datum, LiveRun, LoraSpec, OptimizerSpec, RunSpec, StepRequest

SPEC = RunSpec(base_model="tiny-lm", lora=LoraSpec(rank=2, seed=0))
BATCH = (Datum([1, 2, 3], {"target_tokens": [2, 3, 4], "weights": [1.0, 1.0, 1.0]}),)


async def trained(run: LiveRun) -> list[float]:
    """The losses of three steps, of which each is sent once the one before it is accepted."""
    steps = [run.prepare_step(StepRequest(step, BATCH, OptimizerSpec(learning_rate=0.1))) for step in (1, 2, 3)]
    sent = [await run.send(step) for step in steps]
    return [(await pending.result()).loss for pending in sent]


CASES: dict[str, tuple[dict[str, Any], bool | None, int]] = {
    "by number": ({}, True, 1),
    "by arrival": ({"order": Order.ARRIVAL}, False, 1),
    "refuses what is early, and keeps that on record": ({"order": Order.STRICT}, False, 2),
    "runs repeats again": ({"order": Order.ARRIVAL, "replay": False}, None, 1),
    "runs repeats again, and refuses what is early": ({"order": Order.STRICT, "replay": False}, None, 1),
    "wants no parallel requests": ({"client_config": {"parallel_fwdbwd_chunks": False}}, None, 1),
    "is near": ({"latency_ms": 0.0}, None, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_server_is_known_for_what_it_is_and_trains_as_before(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run asks no more. Where asking spoils a run, another one takes its place."""
    options, orders, models = CASES[case]
    if case == "is near":
        monkeypatch.setattr("backends.tinkex.client.training.channel.order_probe._WORTHWHILE_S", 60.0)

    async def scene(server: DevServer) -> None:
        access = {"base_url": server.url, "api_key": "tml-dev"}
        async with TinkexBackend({**access, "send_ahead": False}) as plain:
            expected = await trained(await plain.start(SPEC))
        async with TinkexBackend(access) as backend:
            run = await backend.start(SPEC)
            assert isinstance(run, TinkexRun)
            assert run.features.orders is orders
            assert run.features.sends_ahead is (orders is True)
            assert await trained(run) == expected
            spent = run.next_seq_id
            again = await backend.start(SPEC)
            assert again.next_seq_id < spent
            assert await trained(again) == expected
            attached = await backend.attach(run.ref, next_seq_id=spent)
            assert attached.features.orders is orders
        assert len({entry["model_id"] for entry in server.log(kind="forward")}) <= models + 1

    with DevServer(tmp_path / "server", hold_s=2.0, **({"latency_ms": 12.0} | options)) as server:
        asyncio.run(scene(server))
        starts = server.log(kind="forward")
        assert starts, "asking is seen in the log"


def test_what_another_process_has_learned_goes_with_the_run(tmp_path: Path) -> None:
    """A new owner sends ahead at once; one that must not, does not."""

    async def scene(server: DevServer) -> None:
        access = {"base_url": server.url, "api_key": "tml-dev"}
        async with TinkexBackend(access) as backend:
            run = await backend.start(SPEC)
            assert run.features.orders is True
            for send_ahead in (True, False):
                async with TinkexBackend({**access, "send_ahead": send_ahead}) as other:
                    attached = await other.attach(run.ref, next_seq_id=run.next_seq_id)
                    assert attached.features.orders is (True if send_ahead else None)

    with DevServer(tmp_path / "server", hold_s=2.0, latency_ms=12.0) as server:
        asyncio.run(scene(server))
