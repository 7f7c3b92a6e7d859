"""Environments of the cookbook, by our adapter: the kit of environments, and jobs with the cookbook's rewards."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from kit_run import environment_with_product, lay_metadata, run_kit
from provision import HERE
from recipes import MODEL

from backends.tinkex_dev.server import DEV_KEY, DevServer

SIZE, GROUPS, STEPS = 3, 2, 3
SHORTER = "tinker_cookbook.recipes.preference.shorter.env"
SETTINGS: dict[str, dict[str, Any]] = {
    "arithmetic": {
        "builder": "tinker_cookbook.recipes.math_rl.arithmetic_env:ArithmeticDatasetBuilder",
        "args": {"n_batches": 10},
    },
    "tournament": {
        "builder": "tinker_cookbook.rl.preference_envs:PairwisePreferenceRLDatasetBuilder",
        "args": {
            "comparison_builder": {"builder": f"{SHORTER}:ShorterComparisonBuilder"},
            "preference_model_builder": {"builder": f"{SHORTER}:ShorterPreferenceModelBuilder"},
        },
    },
}


def test_its_environments_keep_the_contract(provided: Any, tmp_path: Path) -> None:
    """With one answer, several turns, and rewards of the group; a fault costs its group alone."""
    run_kit(provided("cookbook"), "cookbook_kit.py", ["cookbook_builders.py"], tmp_path)


def test_a_job_has_the_rewards_of_the_cookbook(provided: Any, tmp_path: Path) -> None:
    """Of the sums of ``math_rl``: the package's own scores of the same answers are the rewards of the job."""
    python = provided("cookbook")
    lay_metadata(tmp_path)
    with DevServer(tmp_path / "server", seed=3) as server:
        alone = worked(python, server, tmp_path / "alone", SETTINGS["arithmetic"])
    check_scores(python, tmp_path, alone, SETTINGS["arithmetic"])


def test_a_job_that_is_killed_has_them_too(provided: Any, tmp_path: Path) -> None:
    """Of a tournament between the answers of a group. Killed twice between its samples, the job ends with the same
    answers, rewards and losses as one that was left alone, and no answer is sampled twice."""
    python, settings = provided("cookbook"), SETTINGS["tournament"]
    lay_metadata(tmp_path)
    whole = SIZE * GROUPS * STEPS
    with DevServer(tmp_path / "server", seed=3) as server:
        alone = worked(python, server, tmp_path / "alone", settings)
        sampled = samples(server)
        for share in (0.4, 0.8):
            die_after(python, server, tmp_path / "killed", settings, sampled + int(share * whole))
        killed = worked(python, server, tmp_path / "killed", settings)
        again = samples(server) - sampled
    assert sampled == again == whole
    assert killed["rollouts"] == alone["rollouts"]
    assert killed["losses"] == alone["losses"]
    assert killed["metrics"] == alone["metrics"]
    check_scores(python, tmp_path, alone, settings)


def check_scores(python: Path, folder: Path, job: dict[str, Any], settings: dict[str, Any]) -> None:
    """Hold the rewards and the metrics of a job's rollouts against the cookbook's own."""
    groups = scores(python, folder, job["rollouts"], settings)
    assert {each["reason"] for each in job["rollouts"]} == {"done"}
    assert len({each["reward"] for each in job["rollouts"]}) > 1
    assert [each["reward"] for each in job["rollouts"]] == [each for group in groups for each in group["rewards"]]
    assert [each["metrics"] for each in job["rollouts"]] == [each for group in groups for each in group["metrics"]]


def samples(server: DevServer) -> int:
    """How many answers the server has sampled: a request that is repeated under its key is answered from its
    record."""
    return sum(not entry["replayed"] for entry in server.log(kind="sample"))


def started(python: Path, server: DevServer, folder: Path, settings: dict[str, Any]) -> "subprocess.Popen[str]":
    """The process of a job on an environment of the cookbook."""
    folder.mkdir(exist_ok=True)
    payload = {
        "method": "rl",
        "base_model": MODEL,
        "environment": {"name": "cookbook", "args": settings},
        "groups_per_step": GROUPS,
        "group_size": SIZE,
        "sampling": {"max_tokens": 150},
        "advantage": {"drop_constant": False},
        "optimizer": {"learning_rate": 0.01},
        "lora": {"rank": 8, "seed": 5},
        "max_steps": STEPS,
    }
    (folder / "payload.json").write_text(json.dumps(payload))
    variables = environment_with_product(folder.parent) | {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}
    return subprocess.Popen(
        [python, HERE / "environment_job.py", folder / "home", folder / "payload.json"],
        env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def worked(python: Path, server: DevServer, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The end of a job."""
    process = started(python, server, folder, settings)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-4000:]
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def die_after(python: Path, server: DevServer, folder: Path, settings: dict[str, Any], count: int) -> None:
    """Work the job, and kill its process once the server has sampled so often."""
    process = started(python, server, folder, settings)
    ends = time.monotonic() + 300
    while samples(server) < count:
        assert process.poll() is None, process.communicate()[1][-4000:]
        assert time.monotonic() < ends
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def scores(
    python: Path, folder: Path, rollouts: list[dict[str, Any]], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """The cookbook's own rewards and metrics of these answers, by group."""
    (folder / "rollouts.json").write_text(json.dumps(rollouts))
    (folder / "settings.json").write_text(json.dumps(settings))
    ended = subprocess.run(
        [python, HERE / "cookbook_scores.py", folder / "rollouts.json", folder / "settings.json", MODEL, str(SIZE)],
        env=environment_with_product(folder), cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    return found
