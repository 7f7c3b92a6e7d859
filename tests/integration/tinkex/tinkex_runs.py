"""Runs on the development server and their training."""

from backends.tinkex import ServiceClient, TrainingClient
from backends.tinkex.types import AdamParams, Datum
from backends.tinkex_dev.server import DevServer

ADAM = AdamParams(learning_rate=1e-2)


def train(client: TrainingClient, batch: list[Datum], steps: int) -> list[float]:
    """Losses of pipelined steps: everything is sent before anything is awaited."""
    pending = []
    for _ in range(steps):
        pending.append(client.forward_backward(batch, "cross_entropy"))
        step = client.optim_step(ADAM)
    step.result(30)
    return [one.result(30).metrics["loss:sum"] for one in pending]


def client_of(server: DevServer) -> ServiceClient:
    """A client to be closed before its server is."""
    return ServiceClient("tml-test", server.url)


def new_run(service: ServiceClient) -> TrainingClient:
    """A run that starts the same every time."""
    return service.create_lora_training_client("tiny-lm", rank=4, seed=0)
