"""A development server over real HTTP, and the calls that all tests here share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.tinkex_dev.server import DevServer
from crucible.rendering.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
LESSONS = (
    ("Who wrote Hamlet?", "Hamlet was written by Shakespeare."),
    ("What do bees make?", "Bees make honey."),
    ("Name a color.", "Red is a color."),
    ("Where do fish live?", "Fish live in the sea."),
)


def lesson(question: str, reply: str) -> dict[str, Any]:
    """One conversation as a datum for cross_entropy."""
    example = TOKENIZER.render_example(
        [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    )
    return {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": list(example.tokens[:-1])}]},
        "loss_fn_inputs": {
            "target_tokens": {"data": list(example.tokens[1:]), "dtype": "int64"},
            "weights": {"data": list(example.weights[1:]), "dtype": "float32"},
        },
    }


class Api:
    """Plain HTTP, without our client, so that the tests cover the wire format."""

    lessons = tuple(lesson(*pair) for pair in LESSONS)

    def __init__(self, url: str, *, key: str = "tml-test") -> None:
        # verify: no certificates are loaded for plain HTTP, which takes longer than most tests
        self.http = httpx.Client(
            base_url=f"{url}/api/v1", headers={"X-API-Key": key}, timeout=120, trust_env=False, verify=False
        )

    def call(self, route: str, **body: Any) -> httpx.Response:
        """POST a body; returns the answer with any status. NaN is sent as Python writes it."""
        return self.http.post(route, content=json.dumps(body))

    def ok(self, route: str, **body: Any) -> dict[str, Any]:
        """POST a body that must be accepted."""
        answer = self.call(route, **body)
        assert answer.status_code < 300, (route, answer.status_code, answer.text)
        return answer.json()

    def result(self, receipt: dict[str, Any]) -> dict[str, Any]:
        """Poll a promise until its result is there."""
        while True:
            answer = self.call("retrieve_future", request_id=receipt["request_id"])
            if answer.status_code != 408:
                assert answer.status_code == 200, answer.text
                return answer.json()

    def do(self, route: str, **body: Any) -> dict[str, Any]:
        """POST, and wait for the result, which must not be a failure."""
        found = self.result(self.ok(route, **body))
        assert "error" not in found, found
        return found

    def session(self) -> str:
        return self.ok("create_session", tags=[], user_metadata={}, sdk_version="0")["session_id"]

    def model(self, session_id: str, number: int = 0, **lora: Any) -> str:
        """A new model of rank 4 and seed 0, unless told otherwise."""
        return self.do(
            "create_model",
            session_id=session_id,
            model_seq_id=number,
            base_model="tiny-lm",
            lora_config={"rank": 4, "seed": 0} | lora,
        )["model_id"]

    def forward_backward(self, model_id: str, seq_id: int, **extra: Any) -> dict[str, Any]:
        inputs = {"data": list(self.lessons), "loss_fn": "cross_entropy"} | extra
        return self.ok("forward_backward", model_id=model_id, seq_id=seq_id, forward_backward_input=inputs)

    def optim_step(self, model_id: str, seq_id: int, learning_rate: float = 1e-2) -> dict[str, Any]:
        return self.ok("optim_step", model_id=model_id, seq_id=seq_id, adam_params={"learning_rate": learning_rate})

    def train(self, model_id: str, steps: int, *, first_seq: int = 1) -> list[float]:
        """Train a number of steps on all lessons; returns the loss before each step."""
        losses: list[float] = []
        for seq_id in range(first_seq, first_seq + 2 * steps, 2):
            receipt = self.forward_backward(model_id, seq_id)
            stepped = self.optim_step(model_id, seq_id + 1)
            losses.append(self.result(receipt)["metrics"]["loss:sum"])
            assert "error" not in self.result(stepped)
        return losses

    def complete(self, question: str, **source: Any) -> str:
        """The model's greedy answer to a question."""
        prompt = TOKENIZER.render_prompt([{"role": "user", "content": question}])
        found = self.do(
            "asample",
            prompt={"chunks": [{"type": "encoded_text", "tokens": prompt}]},
            sampling_params={"max_tokens": 60, "temperature": 0},
            num_samples=1,
            **source,
        )
        return TOKENIZER.decode(found["sequences"][0]["tokens"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DevServer]:
    with DevServer(tmp_path / "state") as running:
        yield running


@pytest.fixture
def api(server: DevServer) -> Iterator[Api]:
    made = Api(server.url)
    with made.http:
        yield made


@pytest.fixture
def connect() -> Iterator[Any]:
    """Creates an Api for a server, and closes it afterwards."""
    made: list[Api] = []

    def to(running: DevServer, **options: Any) -> Api:
        made.append(Api(running.url, **options))
        return made[-1]

    yield to
    for each in made:
        each.http.close()
