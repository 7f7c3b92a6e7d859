"""A save whose answer was lost is found under its name, or the run goes on under another; no job fails for it."""

from pathlib import Path

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible.errors import AnswerLost
from crucible.testing.loop import run_opened
from crucible.training import IntentKind, LiveRun, SaveResult

LISTINGS = {"checkpoints", "training_runs"}
LACKING = {
    "nothing": set[str](),
    "its listings": LISTINGS,
    "its listings and weights_info": {*LISTINGS, "weights_info"},
}


async def save_twice(run: LiveRun, kind: IntentKind) -> tuple[SaveResult, SaveResult]:
    """The results of two saves under one name."""
    results = []
    for _ in range(2):
        pending = await run.send(run.prepare_save("job-g1-000001", step=1, kind=kind))
        results.append(await pending.result())
    return results[0], results[1]


@pytest.mark.parametrize("kind", [IntentKind.SAVE_STATE, IntentKind.SAVE_SAMPLER])
@pytest.mark.parametrize("lacking", LACKING.values(), ids=LACKING)
def test_a_save_whose_name_is_taken(tmp_path: Path, training, lacking: set[str], kind: IntentKind) -> None:
    """It is adopted where the service says anything of it; else its answer is lost, which leads to a restore."""

    async def save(backend: TinkexBackend) -> tuple[SaveResult, SaveResult]:
        run = await backend.start(training.spec)
        await training.steps(run, 1, 1)
        return await save_twice(run, kind)

    with DevServer(tmp_path / "server", missing_routes=frozenset(lacking), replay=False) as server:
        backend = TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})
        if "weights_info" in lacking:
            with pytest.raises(AnswerLost, match="exists already"):
                run_opened(backend, save)
            return
        first, second = run_opened(backend, save)
    assert (second.path, second.adopted) == (first.path, True)
