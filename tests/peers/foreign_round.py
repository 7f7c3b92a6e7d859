"""The whole round of our one client on a server that others wrote: every call, and how each ended.

A call ends with a value or with an error of our one family; anything else (a hang, a KeyError) is a defect and
leaves the round at once.
"""

import math
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plan import Plan

from backends.tinkex import ServiceClient, types
from crucible.errors import CrucibleError, Unsupported

TIMEOUT_S = 90


@dataclass(slots=True)
class Outcomes:
    """What the round found: values, and the errors of the calls that ended with one."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, CrucibleError] = field(default_factory=dict)

    @property
    def unsupported(self) -> set[str]:
        """The calls that the server is said to lack."""
        return {name for name, error in self.errors.items() if isinstance(error, Unsupported)}

    def codes(self) -> dict[str, str]:
        """Error codes of the calls that ended with another error."""
        return {name: error.code for name, error in self.errors.items() if name not in self.unsupported}

    def attempt(self, name: str, call: Callable[[], Any]) -> Any:
        """Make a call and wait for it; None when it ended with an error."""
        try:
            value = call()
            value = value.result(TIMEOUT_S) if hasattr(value, "result") else value
        except CrucibleError as error:
            self.errors[name] = error
            return None
        self.values[name] = value
        return value


def datum(example: dict[str, Any]) -> types.Datum:
    """An example as our client takes it."""
    return types.Datum(
        model_input=types.ModelInput.from_ints(example["tokens"]),
        loss_fn_inputs={"target_tokens": example["target_tokens"], "weights": example["weights"]},
    )


def whole_round(service: ServiceClient, plan: Plan, folder: Path) -> Outcomes:
    """Everything the client can do, in an order that lets later calls use what earlier ones made."""
    done = Outcomes()
    done.attempt("health", service.create_rest_client().health)
    done.attempt("capabilities", service.get_server_capabilities)
    client = done.attempt(
        "create", lambda: service.create_lora_training_client(plan["base_model"], plan["rank"], plan["seed"])
    )
    if client is None:
        raise done.errors["create"]
    done.attempt("info", client.get_info)
    done.attempt("replay", client.probe_replay)
    done.attempt("order", client.probe_order)
    batches = [[datum(example) for example in batch] for batch in plan["batches"]]
    adam = types.AdamParams(**plan["adam"])
    middle = plan["save_after"]
    done.attempt("before", lambda: steps(client, batches[:middle], adam))
    saved = done.attempt("save", lambda: client.save_state("middle"))
    done.attempt("save_again", lambda: client.save_state("middle"))
    done.attempt("save_expiring", lambda: client.save_state("expiring", ttl_seconds=3600))
    done.attempt("after", lambda: steps(client, batches[middle:], adam))
    done.attempt("forward", lambda: client.forward(batches[0], "cross_entropy"))
    restored_rounds(done, service, saved and saved.path, batches[middle:], adam)
    sampling(done, service, client, plan, folder)
    managing(done, service, client.model_id, saved and saved.path, folder)
    refusals(done, service, plan)
    done.attempt("features", service.server_features)
    done.attempt("unload", client.unload)
    done.attempt("unloaded", client.get_info)
    return done


def steps(client: Any, batches: list[list[types.Datum]], adam: types.AdamParams) -> list[Any]:
    """Steps, all sent before the first answer is awaited; the log-probabilities of each."""
    sent = [(client.forward_backward(batch, "cross_entropy"), client.optim_step(adam)) for batch in batches]
    found = []
    for gradients, update in sent:
        found.append([one["logprobs"].tolist() for one in gradients.result(TIMEOUT_S).loss_fn_outputs])
        update.result(TIMEOUT_S)
    return found


def restored_rounds(
    done: Outcomes, service: ServiceClient, path: str | None, batches: list[list[types.Datum]], adam: Any
) -> None:
    """Go on from a save, with its optimizer and without."""
    if path is None:
        return
    warm = done.attempt("restore", lambda: service.create_training_client_from_state_with_optimizer(path))
    if warm is not None:
        done.attempt("restored", lambda: steps(warm, batches, adam))
    cold = done.attempt("restore_cold", lambda: service.create_training_client_from_state(path))
    if cold is not None:
        done.attempt("restored_cold", lambda: steps(cold, batches, adam))


def sampling(done: Outcomes, service: ServiceClient, client: Any, plan: Plan, folder: Path) -> None:
    """Sample and score, from saved weights and from the base model."""
    prompt = types.ModelInput.from_ints(plan["prompt"])
    params = types.SamplingParams(**plan["sampling"][0])
    saved = done.attempt("save_sampler", lambda: client.save_weights_for_sampler("trained"))
    if saved is not None:
        trained = done.attempt("sampler", lambda: service.create_sampling_client(model_path=saved.path))
        if trained is not None:
            done.attempt("sample", lambda: trained.sample(prompt, 2, params))
            done.attempt("sample_again", lambda: trained.sample(prompt, 2, params))
            done.attempt("logprobs", lambda: trained.compute_logprobs(prompt))
            done.attempt("top", lambda: trained.compute_topk_logprobs(prompt, plan["top_k"]))
            done.attempt("stream", lambda: trained.sample_stream(prompt, params))
            done.attempt("get_sampler", trained.get_sampler)
        done.attempt("archive_sampler", lambda: fetch_archive(service, saved.path, folder / "sampler.tar"))
    direct = done.attempt("sampler_direct", lambda: client.save_weights_and_get_sampling_client())
    if direct is not None:
        done.attempt("sample_direct", lambda: direct.sample(prompt, 2, params))
    base = done.attempt("sampler_base", lambda: service.create_sampling_client(base_model=plan["base_model"]))
    if base is not None:
        done.attempt("sample_base", lambda: base.sample(prompt, 2, params))
        done.attempt("logprobs_base", lambda: base.compute_logprobs(prompt))


def fetch_archive(service: ServiceClient, path: str, target: Path) -> bool:
    """Download a checkpoint's archive; whether it is one."""
    fetched = service.create_rest_client().download_checkpoint_archive(path, target).result(TIMEOUT_S)
    return tarfile.is_tarfile(fetched)


def managing(done: Outcomes, service: ServiceClient, run_id: str, path: str | None, folder: Path) -> None:
    """Look after what was saved."""
    rest = service.create_rest_client()
    done.attempt("list_runs", rest.list_training_runs)
    done.attempt("get_run", lambda: rest.get_training_run(run_id))
    done.attempt("list_checkpoints", lambda: rest.list_checkpoints(run_id))
    done.attempt("list_user_checkpoints", rest.list_user_checkpoints)
    done.attempt("list_sessions", rest.list_sessions)
    done.attempt("get_session", lambda: rest.get_session(str(service.session_id)))
    if path is None:
        return
    done.attempt("weights_info", lambda: rest.get_weights_info_by_tinker_path(path))
    done.attempt("archive", lambda: fetch_archive(service, path, folder / "archive.tar"))
    done.attempt("ttl", lambda: rest.set_checkpoint_ttl_from_tinker_path(path, 3600))
    done.attempt("publish", lambda: rest.publish_checkpoint_from_tinker_path(path))
    done.attempt("unpublish", lambda: rest.unpublish_checkpoint_from_tinker_path(path))
    done.attempt("delete", lambda: rest.delete_checkpoint_from_tinker_path(path))
    done.attempt("delete_again", lambda: rest.delete_checkpoint_from_tinker_path(path))


def refusals(done: Outcomes, service: ServiceClient, plan: Plan) -> None:
    """What is wrong or unknown is refused with an error that says so."""
    rest = service.create_rest_client()
    nothing = "tinker://no-such-run/weights/nothing"
    done.attempt("unknown_model", lambda: service.create_lora_training_client("no-such-model", plan["rank"]))
    done.attempt("huge_rank", lambda: service.create_lora_training_client(plan["base_model"], 1024))
    done.attempt("unknown_run", lambda: rest.get_training_run("no-such-run"))
    done.attempt("unknown_checkpoint", lambda: service.create_training_client_from_state(nothing))
    done.attempt("unknown_weights", lambda: service.create_sampling_client(model_path=nothing))


def mean_loss(logprobs: list[list[float]], batch: list[dict[str, Any]]) -> float:
    """Nats per weighted token of a step."""
    pairs = [
        (weight, value)
        for one, values in zip(batch, logprobs, strict=True)
        for weight, value in zip(one["weights"], values, strict=True)
    ]
    return -math.fsum(weight * value for weight, value in pairs) / math.fsum(weight for weight, _ in pairs)
