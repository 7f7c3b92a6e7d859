"""The kit of environments on the adapter of the cookbook; run in the environment that has that package, with the
builders of ``cookbook_builders.py``."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit_job import run_job

from crucible.environments import Environment, RolloutContext, load_environment
from crucible.environments.cookbook.renderer import CookbookTokenizer, RunRenderer
from crucible.errors import CommandMissing, CrucibleError, InvalidRequest
from crucible.rendering.tokenizer import ByteTokenizer
from crucible.testing import EnvironmentContract
from crucible.testing.environment import run_environment
from crucible.token_sampler import TokenSample
from nsai_work.testing import isolated_store

ARITHMETIC = {
    "builder": "tinker_cookbook.recipes.math_rl.arithmetic_env:ArithmeticDatasetBuilder",
    "args": {"n_batches": 3, "batch_size": 2},
}
SHORTER = "tinker_cookbook.recipes.preference.shorter.env"
PREFERENCE = {
    "builder": "tinker_cookbook.rl.preference_envs:PairwisePreferenceRLDatasetBuilder",
    "args": {
        "comparison_builder": {"builder": f"{SHORTER}:ShorterComparisonBuilder"},
        "preference_model_builder": {"builder": f"{SHORTER}:ShorterPreferenceModelBuilder"},
    },
}

WITHOUT_SUCH = {"builder": f"{SHORTER}:ShorterComparisonBuilder", "args": {"x": 1}}


def environment(settings: dict[str, Any]) -> Environment:
    """An environment as a job makes it."""
    return load_environment("cookbook", settings, allow=["cookbook_builders"])


class TestArithmetic(EnvironmentContract):
    """One answer to a sum, from the package."""

    @pytest.fixture
    def environment(self) -> Environment:
        return environment(ARITHMETIC)


class TestPreference(EnvironmentContract):
    """A tournament of a group, from the package: the shorter answer wins."""

    @pytest.fixture
    def environment(self) -> Environment:
        return environment(PREFERENCE)


class TestTalk(EnvironmentContract):
    """Several turns, rewards of the group, and a builder that a job names itself."""

    group_size = 3

    @pytest.fixture
    def environment(self) -> Environment:
        return environment({"builder": "cookbook_builders:TalkBuilder"})


def test_turns_have_the_tokens_of_the_renderer() -> None:
    """The prompts go on from the answers, metrics are means over the turns, and the group's come at its end."""

    async def body(opened: Environment) -> None:
        members = await opened.start_group(0, 0, 2)  # type: ignore[attr-defined]
        first, second = [await member.begin() for member in members]
        assert first == second
        answers = [
            TokenSample((*b"ab", 256), (-1.0,) * 3, stopped=True),
            TokenSample((99,), (-1.0,), stopped=False),
        ]
        replies = []
        for answer in (*answers, answers[0]):
            replies.append(await members[0].step_tokens(answer))
            await members[1].step_tokens(answer)
        assert [reply.reward for reply in replies] == [2.0, 1.0, 2.0]
        assert [reply.done for reply in replies] == [False, False, True]
        assert [reply.metrics["place"] for reply in replies] == [1.0, 1.5, 2.0]
        assert [reply.metrics["stopped"] for reply in replies] == [1.0, 0.5, 2 / 3]
        shown = ByteTokenizer().render_prompt(
            [
                {"role": role, "content": text}
                for role, text in (("user", "Speak."), ("assistant", "ab"), ("user", "ab? More."))
            ]
        )
        assert list(replies[0].prompt.tokens) == shown
        assert replies[0].prompt.stop_tokens == (256,)
        ended = await opened.group_feedback(members, [], [5.0, 5.0])  # type: ignore[attr-defined]
        assert [(each.reward, dict(each.metrics)) for each in ended] == [
            (5.0, {"turns": 3.0}),
            (11.0, {"turns": 3.0}),
        ]
        from cookbook_builders import TalkBuilder

        before = TalkBuilder.cleaned
        for member in (*members, *members):
            await member.close()
        assert TalkBuilder.cleaned == before + 1

    run_environment(environment({"builder": "cookbook_builders:TalkBuilder"}), body)


FAULTS = {
    "raises": "RuntimeError: out of dice",
    "exits": "SystemExit: 3",
    "hangs": "limits.seconds",
    "blocks": "limits.seconds",
    "NaN": "a reward must be finite",
    "text": "a reward must be a number",
    "NaN metric": "the metric odd must be finite",
    "text metric": "the metric odd must be a number",
    "text as the end": "episode_done must be a bool",
    "no result": "step gave float, not StepResult",
    "no prompt": "initial_observation gave str",
    "empty prompt": "must have a prompt with tokens",
    "unknown tokens": "tokens from 1 to 5000; those of the model are 0 to 319",
    "texts as stops": "name a renderer that stops at tokens",
    "an image": "something else than text",
    "no members": "RuntimeError: no sandbox",
    "another size": "its builder makes groups of 3; set group_size: 3",
    "raises for the group": "RuntimeError: no judge",
    "text for the group": "a reward must be a number",
    "NaN for the group": "a reward must be finite",
    "too few for the group": "gave 1 rewards for 2 members",
}
ENDS = {"10 MB": "context", "10 MB at once": "context", "endless": "limits.turns", "too long at once": "done"}


def worked(settings: dict[str, Any], **fields: Any) -> Any:
    """The handle of a job on the environment, which has run to its end."""
    return run_job("cookbook", settings, **fields)


@pytest.mark.parametrize("fault", [*FAULTS, *ENDS])
def test_a_fault_costs_its_group_alone(fault: str) -> None:
    """It is counted with its reason, and the run trains on the other group."""
    limits = {"turns": 4, "seconds": 10.0 if fault in ("hangs", "blocks") else 60.0}
    sampling = {"max_tokens": 2, "limits": limits, "on_error": {"retry": 1, "min_group": 1}}
    settings = {"builder": "cookbook_builders:FaultyDataBuilder", "args": {"fault": fault}}
    with isolated_store(python_allow="cookbook_builders"):
        handle = worked(settings, sampling=sampling)
        assert handle.job().status == "succeeded", handle.job().error
        [step] = handle.steps()
        bad = [record for record in handle.rollouts() if record.task == 0]
        good = [record for record in handle.rollouts() if record.task == 1]
    assert {record.reason for record in good} == {"done"}
    if fault in FAULTS:
        assert all(record.reward is None and FAULTS[fault] in record.reason for record in bad), bad
        assert step.metrics["rollouts_failed"] == 2.0
    else:
        assert {record.reason for record in bad} == {ENDS[fault]}
        assert step.metrics["rollouts_failed"] == 0.0
    if fault == "too long at once":
        assert [(record.reward, record.turns) for record in bad] == [(-0.5, 0)] * 2
        assert bad[0].metrics == {"stop/max_tokens": 1.0}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"builder": "arithmetic"}, "builder"),
        ({**ARITHMETIC, "spilt": "test"}, "did you mean split"),
        ({"builder": f"{SHORTER}:Shorter"}, "ShorterComparisonBuilder"),
        ({"builder": f"{SHORTER}:DUMMY_COMPARISON"}, "must name a class"),
        ({"builder": f"{SHORTER}:PreferenceModelShorter"}, "RLDatasetBuilder or an EnvGroupBuilder"),
        ({**ARITHMETIC, "args": {"n_batch": 3}}, "did you mean n_batches"),
        ({**ARITHMETIC, "args": {}}, "n_batches is missing"),
        ({**ARITHMETIC, "args": {"n_batches": "many"}}, r"args\.args\.n_batches: 'many'"),
        ({**ARITHMETIC, "args": {"n_batches": 1, "group_size": 4}}, "the job's group_size sets it"),
        ({**ARITHMETIC, "args": {"n_batches": 1, "model_name_for_tokenizer": "x"}}, "the job's base_model sets it"),
        ({**PREFERENCE, "args": {**PREFERENCE["args"], "comparison_builder": "x"}}, "instance of"),
        ({**PREFERENCE, "args": {"comparison_builder": {"builder": "os:system"}}}, "NSAI_WORK_PYTHON_ALLOW"),
        ({**PREFERENCE, "args": {"comparison_builder": WITHOUT_SUCH}}, r"comparison_builder\.args\.x"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    """By name, when a job is submitted."""
    with pytest.raises(CrucibleError, match=named):
        environment(settings)


def test_a_module_of_a_user_needs_permission() -> None:
    """As the environment of a job does."""
    with pytest.raises(CommandMissing, match="NSAI_WORK_PYTHON_ALLOW"):
        load_environment("cookbook", {"builder": "cookbook_builders:TalkBuilder"})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({**ARITHMETIC, "split": "test"}, "has no such data"),
        ({"builder": "cookbook_builders:FaultyDataBuilder", "args": {"fault": "refuses"}}, "no such data"),
        ({**ARITHMETIC, "args": {"n_batches": 1, "renderer_name": "qwen4"}}, "qwen4"),
    ],
)
def test_what_is_known_once_opened_fails_the_job(settings: dict[str, Any], named: str) -> None:
    """With the reason."""
    with isolated_store(python_allow="cookbook_builders"):
        job = worked(settings).job()
    assert job.status == "failed"
    assert named in str(job.error)


def test_the_example_of_the_page_runs() -> None:
    """As it stands there."""
    page = Path(__file__).with_name("write-an-environment.md").read_text()
    blocks = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    [shown] = [block["environment"] for block in blocks if block.get("environment", {}).get("name") == "cookbook"]
    with isolated_store():
        handle = worked(shown["args"], sampling={"max_tokens": 4})
        assert handle.job().status == "succeeded", handle.job().error
        assert handle.steps()[0].metrics.keys() >= {"env.correct", "env.format"}


def test_integers_of_any_size_reach_a_tool() -> None:
    """In the arguments of a call, as the model has written them."""
    tokens = ByteTokenizer()
    call = f'<tool_call>{{"name": "add", "arguments": {{"a": {2**70}}}}}</tool_call>'
    renderer = RunRenderer(CookbookTokenizer("tiny-lm", tokens))
    message, _ = renderer.parse_response(tokens.encode(call))
    assert json.loads(message["tool_calls"][0].function.arguments) == {"a": 2**70}


def test_a_tokenizer_of_another_run_is_not_mixed_up() -> None:
    """Two models of one name with other tokens cannot be in one process."""

    class Other(ByteTokenizer):
        @property
        def tokenizer_id(self) -> str:
            return "other"

    async def opened(tokenizer: ByteTokenizer) -> None:
        found = environment(ARITHMETIC)
        found.use_context(RolloutContext("mixed", tokenizer, 2))
        await found.open()
        await found.close()

    asyncio.run(opened(ByteTokenizer()))
    with pytest.raises(InvalidRequest, match="nsai/byte-320"):
        asyncio.run(opened(Other()))
