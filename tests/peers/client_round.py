"""One round with a client of the Tinker API: plan (JSON) in, numbers (JSON) out.

``client_round.py PLAN OUT CLIENT``: CLIENT is the module that offers ``ServiceClient`` and ``types``, be it the
official SDK (``tinker``, run by the Python of its own environment) or ours (``backends.tinkex``). The calls are
the same for both; that one script can drive either is part of the claim. Where versions differ in how a client
is made (a client, or a future of one), ``settled`` accepts both.
"""

import importlib
import json
import os
import sys
import tarfile
import time
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

api = importlib.import_module(sys.argv[3])
types: Any = api.types

TIMEOUT_S = 60
LOSSES: dict[str, dict[str, float]] = {
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
    "cispo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
    "dro": {"beta": 0.05},
}


def settled(value: Any) -> Any:
    """What it is, or what it will be."""
    result = getattr(value, "result", None)
    return value if result is None else result(timeout=TIMEOUT_S)


def datum(example: dict[str, Any], *names: str, **more: list[float]) -> Any:
    """An example with the named tensors."""
    tensors = {name: example[name] for name in names} | more
    return types.Datum(
        model_input=types.ModelInput.from_ints(example["tokens"]),
        loss_fn_inputs={
            name: types.TensorData(
                data=values, dtype="int64" if name == "target_tokens" else "float32", shape=[len(values)]
            )
            for name, values in tensors.items()
        },
    )


def numbers(output: Any) -> dict[str, Any]:
    """A forward_backward's answer as plain numbers."""
    logprobs = [[float(x) for x in one["logprobs"].data] for one in output.loss_fn_outputs]
    return {"metrics": dict(output.metrics), "logprobs": logprobs}


class Round:
    """The stages, in order; each leaves its numbers in ``found``."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.found: dict[str, Any] = {}
        self.service = api.ServiceClient()
        self.rest = self.service.create_rest_client()
        self.adam = types.AdamParams(**plan["adam"])
        self.batches = [
            [datum(example, "target_tokens", "weights") for example in batch] for batch in plan["batches"]
        ]

    def new_client(self) -> Any:
        """A fresh run."""
        plan = self.plan
        return settled(
            self.service.create_lora_training_client(
                base_model=plan["base_model"], rank=plan["rank"], seed=plan["seed"]
            )
        )

    def steps(self, client: Any, first: int, last: int) -> list[dict[str, Any]]:
        """Steps ``first`` up to ``last``, all sent before the first answer is awaited."""
        sent = [
            (client.forward_backward(batch, "cross_entropy"), client.optim_step(self.adam))
            for batch in self.batches[first:last]
        ]
        answers = []
        for gradients, update in sent:
            answers.append(numbers(gradients.result(timeout=TIMEOUT_S)))
            update.result(timeout=TIMEOUT_S)
        return answers

    def train(self) -> None:
        """Train, look without training, save in the middle, train on."""
        middle, last = self.plan["save_after"], self.plan["steps"]
        self.client = self.new_client()
        self.found["info"] = settled(self.client.get_info()).model_data.model_name
        self.found["before"] = self.steps(self.client, 0, middle)
        self.found["saved"] = self.client.save_state("middle").result(timeout=TIMEOUT_S).path
        self.found["after"] = self.steps(self.client, middle, last)
        looked = self.client.forward(self.batches[0], "cross_entropy").result(timeout=TIMEOUT_S)
        self.found["looked"] = numbers(looked)

    def restore(self) -> None:
        """Train on from the save, with its optimizer and without, each in a new client."""
        middle, last = self.plan["save_after"], self.plan["steps"]
        warm = settled(self.service.create_training_client_from_state_with_optimizer(self.found["saved"]))
        self.found["restored"] = self.steps(warm, middle, last)
        cold = settled(self.service.create_training_client_from_state(self.found["saved"]))
        self.found["restored_cold"] = self.steps(cold, middle, last)

    def sample(self) -> None:
        """Sample from the trained weights and from the base model, and score a prompt."""
        plan = self.plan
        saved = self.client.save_weights_for_sampler("trained").result(timeout=TIMEOUT_S).path
        self.found["sampler_saved"] = saved
        trained = settled(self.service.create_sampling_client(model_path=saved))
        direct = settled(self.client.save_weights_and_get_sampling_client())
        base = settled(self.service.create_sampling_client(base_model=plan["base_model"]))
        prompt = types.ModelInput.from_ints(plan["prompt"])
        for name, sampler in (("trained", trained), ("direct", direct), ("base", base)):
            # one at a time: a server that samples what waits together may draw otherwise in other company
            answers = [
                sampler.sample(prompt, num_samples=2, sampling_params=types.SamplingParams(**params)).result(
                    timeout=TIMEOUT_S
                )
                for params in plan["sampling"]
            ]
            self.found[f"sampled_{name}"] = [
                [
                    {
                        "tokens": list(one.tokens),
                        "logprobs": list(one.logprobs or []),
                        "stop": str(one.stop_reason),
                    }
                    for one in answer.sequences
                ]
                for answer in answers
            ]
            self.found[f"scored_{name}"] = sampler.compute_logprobs(prompt).result(timeout=TIMEOUT_S)
        top = trained.sample(
            prompt,
            num_samples=1,
            sampling_params=types.SamplingParams(max_tokens=1, seed=0),
            include_prompt_logprobs=True,
            topk_prompt_logprobs=plan["top_k"],
        ).result(timeout=TIMEOUT_S)
        self.found["top"] = top.topk_prompt_logprobs

    def losses(self) -> None:
        """One step with every other loss; the policy that is learnt from is this one, a step ago."""
        batch = self.plan["batches"][0]
        for loss, config in LOSSES.items():
            client = self.new_client()
            scored = client.forward(self.batches[0], "cross_entropy").result(timeout=TIMEOUT_S)
            old = [[float(x) for x in one["logprobs"].data] for one in scored.loss_fn_outputs]
            self.steps(client, 0, 1)
            names = ("target_tokens", "advantages")
            data = [datum(one, *names, logprobs=lp) for one, lp in zip(batch, old, strict=True)]
            gradients = client.forward_backward(data, loss, config or None)
            client.optim_step(self.adam).result(timeout=TIMEOUT_S)
            self.found[loss] = numbers(gradients.result(timeout=TIMEOUT_S))
            looked = client.forward(self.batches[0], "cross_entropy").result(timeout=TIMEOUT_S)
            self.found[f"{loss}_learnt"] = numbers(looked)

    def manage(self) -> None:
        """Look after what was saved: list, describe, download, expire, publish, delete."""
        rest, saved = self.rest, self.found["saved"]
        run_id = saved.removeprefix("tinker://").split("/")[0]
        runs = rest.list_training_runs(limit=100).result(timeout=TIMEOUT_S)
        run = rest.get_training_run(run_id).result(timeout=TIMEOUT_S)
        self.found["runs"] = [len(runs.training_runs), runs.cursor.total_count, run.base_model, run.lora_rank]
        self.found["corrupted"] = run.corrupted
        self.found["listed"] = self.listed(run_id)
        mine = rest.list_user_checkpoints(limit=100).result(timeout=TIMEOUT_S).checkpoints
        self.found["mine"] = len(mine)
        weights = rest.get_weights_info_by_tinker_path(saved).result(timeout=TIMEOUT_S)
        self.found["weights"] = [weights.base_model, weights.is_lora, weights.lora_rank]
        if hasattr(rest, "get_checkpoint_archive_url_from_tinker_path"):  # the newest SDK has done away with it
            url = settled(rest.get_checkpoint_archive_url_from_tinker_path(saved)).url
            self.found["archive"] = sorted(archive_members(url))
        rest.set_checkpoint_ttl_from_tinker_path(saved, 3600).result(timeout=TIMEOUT_S)
        rest.publish_checkpoint_from_tinker_path(saved).result(timeout=TIMEOUT_S)
        self.found["published"] = self.listed(run_id)
        rest.set_checkpoint_ttl_from_tinker_path(saved, None).result(timeout=TIMEOUT_S)
        rest.unpublish_checkpoint_from_tinker_path(saved).result(timeout=TIMEOUT_S)
        self.found["unpublished"] = self.listed(run_id)
        self.client.save_state("kept", ttl_seconds=3600).result(timeout=TIMEOUT_S)
        self.found["expiring"] = self.listed(run_id)
        self.client.save_state("kept", overwrite=True).result(timeout=TIMEOUT_S)
        self.found["overwritten"] = self.listed(run_id)
        rest.delete_checkpoint_from_tinker_path(saved).result(timeout=TIMEOUT_S)
        self.found["deleted"] = self.listed(run_id)
        self.found["deleted_twice"] = self.refusal(rest.delete_checkpoint_from_tinker_path, saved)
        self.found["unknown_run"] = self.refusal(rest.get_training_run, "no-such-run")

    def listed(self, run_id: str) -> list[list[Any]]:
        """The run's checkpoints without what differs between rounds."""
        listed = self.rest.list_checkpoints(run_id).result(timeout=TIMEOUT_S).checkpoints
        rows = [[one.checkpoint_id, one.checkpoint_type, one.public, one.expires_at is not None] for one in listed]
        return sorted(row for row in rows if row[0].rpartition("/")[2] in ("kept", "middle", "trained"))

    @staticmethod
    def refusal(call: Any, argument: str) -> int | str:
        """The status that a call is refused with."""
        try:
            call(argument).result(timeout=TIMEOUT_S)
        except Exception as error:
            status: int = getattr(error, "status_code", None) or error.details["status"]  # type: ignore[attr-defined]
            return status
        return "not refused"


def archive_members(url: str) -> list[str]:
    """The names of the files in an archive."""
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer,
        tarfile.open(fileobj=BytesIO(answer.read())) as tar,
    ):
        return [member.name for member in tar.getmembers() if member.isfile()]


def main(plan_file: str, out_file: str) -> None:
    """Do the stages that the plan names."""
    plan = json.loads(Path(plan_file).read_text())
    began = time.monotonic()
    work = Round(plan)
    for stage in plan["stages"]:
        getattr(work, stage)()
        print(f"{stage} done at {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)  # noqa: T201
    Path(out_file).write_text(json.dumps(work.found))
    # a client's background threads may hold the interpreter back; all that was asked for has been written
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
