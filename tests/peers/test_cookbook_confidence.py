"""The scores of given answers by a job, and the cookbook's confidence in them: equal."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from provision import HERE
from recipes import MODEL
from test_cookbook_recipes import environment_of

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, submit
from nsai_work.testing import isolated_store, run_jobs

# a thought, and the same with another number, as the recipe has them
THOUGHTS = [
    (f"What is {n} plus 2?", f"So {n} and 2{change}.", str(n + 2)) for n in range(8, 12) for change in ("", "7")
]


def test_scores_of_given_thoughts_are_those_of_the_cookbook(provided: Any, tmp_path: Path) -> None:
    """Its window begins a token before the answer, and ends as much earlier: its client's list of log-probabilities
    has a place for the first token too, which is not counted there."""
    python = provided("cookbook")
    with DevServer(tmp_path / "server", seed=3) as server:
        [tokenizer] = (tmp_path / "server" / "tokenizers").glob("*/*")
        settings, out = tmp_path / "settings.json", tmp_path / "found.json"
        settings.write_text(json.dumps({"model": MODEL, "tokenizer": str(tokenizer), "thoughts": THOUGHTS}))
        ended = subprocess.run(
            [python, HERE / "cookbook_confidence.py", settings, out],
            env=environment_of(os.environ, server, tmp_path),
            cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-4000:]
        theirs, (cue, end) = json.loads(out.read_text())
        scored = scores(
            server, tmp_path, [(question, thought + cue + answer + end) for question, thought, answer in THOUGHTS]
        )

    ours = []
    for (_, thought, answer), logprobs in zip(THOUGHTS, scored, strict=True):
        begin = len((thought + cue).encode()) - 1
        ours.append(math.fsum(logprobs[begin : begin + len((answer + end).encode())]))
    assert len(set(ours)) == len(THOUGHTS)
    assert ours == pytest.approx(theirs, abs=1e-6)


def scores(server: DevServer, folder: Path, answers: list[tuple[str, str]]) -> list[list[float]]:
    """The log-probabilities of the tokens of each answer, by a job."""
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in answers
    ]
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    payload = {"model": MODEL, "input": {"path": str(file)}, "score": True}
    with isolated_store(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_BASE_URL", server.url)
        patch.setenv("TINKER_API_KEY", DEV_KEY)
        handle = submit(Job.parse({"kind": "inference", "backend": "tinkex", "payload": payload}))
        run_jobs(timeout_s=120)
        assert handle.job().status == "succeeded", handle.job().error
        found = sorted(handle.results(), key=lambda row: row["line"])
    return [[float(token["logprob"]) for token in row["completion"]["choices"][0]["logprobs"]] for row in found]
