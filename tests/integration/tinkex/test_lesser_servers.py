"""The backend on servers that lack something: refused by name, remembered, and said in the capabilities."""

import sys

import pytest
from scripted_server import Response, ScriptedServer, json_response

from backends.tinkex import ServiceClient
from backends.tinkex.backend import TinkexBackend
from crucible import Options, Prompt, Unsupported
from crucible.capabilities import Capabilities
from crucible.testing.loop import run_opened

SAMPLES = json_response(
    {
        "type": "sample",
        "sequences": [{"stop_reason": "stop", "tokens": [72, 105, 256], "logprobs": [-1.0, -2.0, -3.0]}],
    }
)
UNKNOWN_FIELD = json_response(
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "topk_sample_logprobs"], "msg": "not permitted"}]}, 422
)


@pytest.fixture
def scripted(scripted: ScriptedServer) -> ScriptedServer:
    """A server that samples from a byte-level model, and little else."""
    models = [{"model_name": "m", "tokenizer_id": "nsai/byte-320"}]
    scripted.script("get_server_capabilities", json_response({"supported_models": models}))
    scripted.script("create_sampling_session", json_response({"sampling_session_id": "s:0"}))
    scripted.script("asample", json_response({"request_id": "drawn"}))
    scripted.futures["drawn"] = [SAMPLES]
    return scripted


def prompt(**options: object) -> Prompt:
    """A short prompt."""
    return Prompt(messages=[{"role": "user", "content": "Hi"}], options=Options.model_validate(options))


@pytest.mark.parametrize(
    "reply", [UNKNOWN_FIELD, json_response({"request_id": "drawn"})], ids=["refuses", "leaves out"]
)
def test_a_server_without_likely_tokens_is_remembered(scripted: ScriptedServer, reply: Response) -> None:
    """The option is refused by name, is no longer claimed, and plain log-probabilities still work."""
    scripted.script("asample", reply, json_response({"request_id": "drawn"}))

    async def body(opened: TinkexBackend) -> Capabilities:
        with pytest.raises(Unsupported, match=r"options\.top_logprobs"):
            await opened.complete(prompt(logprobs=True, top_logprobs=2))
        count = len(scripted.bodies("asample"))
        with pytest.raises(Unsupported, match=r"options\.top_logprobs"):
            await opened.complete(prompt(logprobs=True, top_logprobs=2))
        assert len(scripted.bodies("asample")) == count
        completion = await opened.complete(prompt(logprobs=True))
        assert [item.logprob for item in completion.choices[0].logprobs or ()] == [-1.0, -2.0, -3.0]
        assert "topk_sample_logprobs" not in scripted.bodies("asample")[-1]
        return await opened.capabilities()

    claimed = run_opened(TinkexBackend({"base_url": scripted.url}), body)

    assert claimed.options is not None
    assert "top_logprobs" not in claimed.options


def test_without_its_tokenizer_a_model_claims_no_tools(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says which package is missing when it is asked."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    scripted.script("get_server_capabilities", json_response({"supported_models": [{"model_name": "far/away"}]}))

    async def body(opened: TinkexBackend) -> Capabilities:
        with pytest.raises(Unsupported, match="far/away needs the package transformers"):
            await opened.complete(Prompt(messages=prompt().messages, tools=[{"name": "go"}]))
        return await opened.capabilities()

    claimed = run_opened(TinkexBackend({"base_url": scripted.url}), body)

    assert (claimed.supports_tools, claimed.supports_vision, claimed.supports_extended_thinking) == (False,) * 3


@pytest.mark.parametrize(
    "path", ["/var/data/checkpoints/st-0001", "tinker://2f1c-samp-3", "tinker://run/weights/a"]
)
def test_an_address_goes_back_as_it_came(scripted: ScriptedServer, path: str) -> None:
    """Servers have forms of their own, and the server alone decides what they mean."""
    scripted.script("load_weights", json_response({"request_id": "loaded"}))
    scripted.futures["loaded"] = [json_response({"type": "load_weights"})]
    service = ServiceClient(base_url=scripted.url)

    service.create_lora_training_client("m").load_state_with_optimizer(path).result(30)
    service.create_sampling_client(model_path=path)

    assert [body["path"] for body in scripted.bodies("load_weights")] == [path]
    assert [body["model_path"] for body in scripted.bodies("create_sampling_session")] == [path]
