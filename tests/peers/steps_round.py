"""The steps of the Tinker API one by one, each on its own, by the official SDK or by our client.

``steps_round.py MODULE MODEL TIMEOUT_S [no-seed]``: MODULE offers ``ServiceClient`` and ``types`` (``tinker``, or
``backends.tinkex``), MODEL is the server's model; the server's address and key are in the environment; ``no-seed``
is for servers that refuse a run with a seed. Prints one JSON object: each step's name and ``ok``, or how it ended.
A step that hangs ends with the timeout; one whose preparation failed is ``not reached``.
"""

import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from plan import plan

api = importlib.import_module(sys.argv[1])
types: Any = api.types
MODEL, TIMEOUT_S = sys.argv[2], float(sys.argv[3])
ASKED = plan(MODEL)
SEED = None if "no-seed" in sys.argv else ASKED["seed"]
PROMPT = types.ModelInput.from_ints(ASKED["prompt"])
PARAMS = types.SamplingParams(max_tokens=6, seed=5, temperature=1.0)
ADAM = types.AdamParams(**ASKED["adam"])

made: dict[str, Any] = {}
"""What steps leave for later ones."""
ended: dict[str, str] = {}


class NotReached(Exception):
    """A step needs what an earlier one did not make."""


def need(name: str) -> Any:
    """What an earlier step made."""
    if name not in made:
        raise NotReached(name)
    return made[name]


def settled(value: Any) -> Any:
    """What it is, or what it will be."""
    result = getattr(value, "result", None)
    return value if result is None else result(timeout=TIMEOUT_S)


def data(**more: Any) -> list[Any]:
    """A batch, with further inputs beside the targets."""
    found = []
    for example in ASKED["batches"][0]:
        inputs = {"target_tokens": example["target_tokens"]}
        inputs |= {name: make(example) for name, make in more.items()} or {"weights": example["weights"]}
        tensors = {
            name: types.TensorData(
                data=values, dtype="int64" if name == "target_tokens" else "float32", shape=[len(values)]
            )
            for name, values in inputs.items()
        }
        found.append(types.Datum(model_input=types.ModelInput.from_ints(example["tokens"]), loss_fn_inputs=tensors))
    return found


def step_of(client: Any, loss: str = "cross_entropy", batch: list[Any] | None = None) -> float:
    """One step; the sum of its log-probabilities."""
    gradients = client.forward_backward(batch or data(), loss)
    update = client.optim_step(ADAM)
    found = settled(gradients)
    settled(update)
    # not the metric: servers name it in their own ways
    return float(sum(value for one in found.loss_fn_outputs for value in one["logprobs"].data))


def policy(loss: str) -> Callable[[], Any]:
    """A step with a loss of reinforcement learning."""

    def run() -> None:
        batch = data(
            advantages=lambda example: example["advantages"],
            logprobs=lambda example: [-5.0] * len(example["tokens"]),
        )
        step_of(need("run"), loss, batch)

    return run


def learns() -> None:
    """The second and third step, whose log-probabilities differ."""
    found = [step_of(need("run")) for _ in range(2)]
    assert found[0] != found[1], "the log-probabilities did not change"


def save_state() -> Any:
    """The path of a saved state."""
    return settled(need("run").save_state("one")).path


def restored(name: str) -> Callable[[], Any]:
    """A new run from the saved state."""
    return lambda: settled(getattr(service(), name)(need("save state")))


def used(name: str) -> Callable[[], Any]:
    """A load into a run that has trained."""
    return lambda: settled(getattr(need("run"), name)(need("save state"))) and None


def sampled(name: str) -> Callable[[], Any]:
    """A sample of two sequences with tokens."""

    def run() -> Any:
        answer = settled(need(name).sample(PROMPT, num_samples=2, sampling_params=PARAMS))
        assert [bool(one.tokens) for one in answer.sequences] == [True, True], "no tokens"
        return [list(one.tokens) for one in answer.sequences]

    return run


def repeated() -> None:
    """The same seed gives the same tokens."""
    first = need("sample")
    assert first == sampled("sampler of a path")(), "the same seed gave other tokens"


def scored(name: str) -> Callable[[], Any]:
    """The log-probabilities of a prompt."""

    def run() -> None:
        found = settled(need(name).compute_logprobs(PROMPT))
        assert any(value is not None for value in found), "no log-probabilities"

    return run


def most_likely() -> None:
    """The most likely tokens of a prompt."""
    answer = settled(
        need("sampler of a path").sample(
            PROMPT, num_samples=1, sampling_params=PARAMS, include_prompt_logprobs=True, topk_prompt_logprobs=3
        )
    )
    assert answer.topk_prompt_logprobs, "none were returned"


def service() -> Any:
    """The service client."""
    return need("service")


def rest(call: str, *arguments: Any) -> Callable[[], Any]:
    """A call of the REST client; texts that are names of steps stand for what these made."""

    def run() -> None:
        given = [made.get(one, one) if isinstance(one, str) else one for one in arguments]
        if any(one in ended and one not in made for one in arguments if isinstance(one, str)):
            raise NotReached(str(arguments))
        settled(getattr(service().create_rest_client(), call)(*given))

    return run


def run_id() -> Any:
    """The run's id as the service has it."""
    return getattr(need("run"), "model_id", None) or settled(need("run").get_info()).model_id


STEPS: dict[str, Callable[[], Any]] = {
    "service": api.ServiceClient,
    "capabilities": lambda: settled(service().get_server_capabilities()),
    "run": lambda: settled(service().create_lora_training_client(base_model=MODEL, rank=ASKED["rank"], seed=SEED)),
    "run id": run_id,
    "get_info": lambda: settled(need("run").get_info()),
    "forward": lambda: settled(need("run").forward(data(), "cross_entropy")),
    "forward_backward and optim_step": lambda: step_of(need("run")),
    "further steps": learns,
    "importance_sampling": policy("importance_sampling"),
    "ppo": policy("ppo"),
    "save state": save_state,
    "new run from a state": restored("create_training_client_from_state"),
    "a step of it": lambda: step_of(need("new run from a state")),
    "new run with the optimizer": restored("create_training_client_from_state_with_optimizer"),
    "a step of that": lambda: step_of(need("new run with the optimizer")),
    "load into a used run": used("load_state"),
    "load with optimizer into it": used("load_state_with_optimizer"),
    "save for sampling": lambda: settled(need("run").save_weights_for_sampler("drawn")).path,
    "sampler of a path": lambda: settled(service().create_sampling_client(model_path=need("save for sampling"))),
    "sample": sampled("sampler of a path"),
    "sample again by its seed": repeated,
    "log-probabilities of a prompt": scored("sampler of a path"),
    "most likely tokens of a prompt": most_likely,
    "sampler of the run": lambda: settled(need("run").save_weights_and_get_sampling_client()),
    "sample of that": sampled("sampler of the run"),
    "sampler of the base model": lambda: settled(service().create_sampling_client(base_model=MODEL)),
    "sample of the base model": sampled("sampler of the base model"),
    "list runs": rest("list_training_runs"),
    "describe a run": rest("get_training_run", "run id"),
    "list checkpoints": rest("list_checkpoints", "run id"),
    "list all checkpoints": rest("list_user_checkpoints"),
    "describe weights": rest("get_weights_info_by_tinker_path", "save state"),
    "expiry of a checkpoint": rest("set_checkpoint_ttl_from_tinker_path", "save state", 3600),
    "publish": rest("publish_checkpoint_from_tinker_path", "save state"),
    "unpublish": rest("unpublish_checkpoint_from_tinker_path", "save state"),
    "delete": rest("delete_checkpoint_from_tinker_path", "save state"),
}


def attempt(name: str, call: Callable[[], Any]) -> str:
    """Make a step in a thread of its own, so that one which hangs does not hold up the rest."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(("ok", call()))
        except NotReached as missing:
            found.append((f"not reached: {missing}", None))
        except BaseException as error:
            traceback.print_exc()
            found.append((f"{type(error).__name__}: {error}"[:300], None))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    if not found:
        return f"no answer within {TIMEOUT_S:.0f} s"
    [(outcome, value)] = found
    if outcome == "ok" and value is not None:
        made[name] = value
    return str(outcome)


for step, make in STEPS.items():
    ended[step] = attempt(step, make)
print(json.dumps(ended), flush=True)  # noqa: T201
# a client's background threads may hold the interpreter back
os._exit(0)
