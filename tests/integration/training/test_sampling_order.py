"""The order of samples: a place that becomes free is taken before the answer that freed it is worked on."""

from typing import Any

import pytest

from backends.fake import FakeBackend
from backends.local.sampler import LocalSampler
from nsai_work.training.rollouts.episodes import rollout
from tests.integration.training.harness import Scene
from tests.integration.training.test_reinforcement import rl_payload

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_free_place_is_taken_before_the_answer_is_worked_on(
    concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a rollout waits for a place, no answer is parsed while fewer samples are under way than may be."""
    sample, answer = LocalSampler.sample, rollout.parsed_answer
    asked = ended = under_way = most = 0
    parsed_at: list[tuple[int, int]] = []

    async def sampled(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked, ended, under_way, most
        asked += 1
        under_way += 1
        most = max(most, under_way)
        try:
            return await sample(*args, **kwargs)
        finally:
            under_way -= 1
            ended += 1

    def parsed(*args: Any) -> Any:
        parsed_at.append((asked, ended))
        return answer(*args)

    monkeypatch.setattr(LocalSampler, "sample", sampled)
    monkeypatch.setattr(rollout, "parsed_answer", parsed)
    fields: dict[str, Any] = {"sampling": {"max_tokens": 2, "concurrency": concurrency}, "max_steps": 1}
    await Scene(rl_payload(groups_per_step=2, group_size=4, **fields), new_backend=FakeBackend).drive()
    assert most == concurrency
    assert asked == len(parsed_at) == 8
    # twice as many rollouts as places are under way: at the first answers as many again wait for a place
    first = [began for began, _ in parsed_at[:concurrency]]
    assert min(first) > concurrency, parsed_at
