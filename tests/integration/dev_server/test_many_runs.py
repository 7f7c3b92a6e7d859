"""Concurrent runs do not influence each other."""

import asyncio

import httpx


def test_forty_runs_at_once_each_learn_as_if_alone(api, server):
    """Forty runs of one seed share the server; each ends with the losses of a single run."""
    alone = api.train(api.model(api.session()), 2)

    async def run(http: httpx.AsyncClient) -> list[float]:
        async def post(route: str, **body):
            answer = await http.post(route, json=body)
            assert answer.status_code < 300, answer.text
            return answer.json()

        async def result(receipt):
            return await post("retrieve_future", request_id=receipt["request_id"])

        session = (await post("create_session", tags=[]))["session_id"]
        lora = {"rank": 4, "seed": 0}
        made = await post(
            "create_model", session_id=session, model_seq_id=0, base_model="tiny-lm", lora_config=lora
        )
        model = (await result(made))["model_id"]
        losses = []
        for seq_id in (1, 3):
            inputs = {"data": list(api.lessons), "loss_fn": "cross_entropy"}
            passed = await post("forward_backward", model_id=model, seq_id=seq_id, forward_backward_input=inputs)
            await post("optim_step", model_id=model, seq_id=seq_id + 1, adam_params={"learning_rate": 1e-2})
            losses.append((await result(passed))["metrics"]["loss:sum"])
        return losses

    async def all_runs() -> list[list[float]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=f"{server.url}/api/v1/",
            headers={"X-API-Key": "tml-test"},
            timeout=120,
            limits=limits,
            trust_env=False,
            verify=False,
        ) as http:
            return await asyncio.gather(*(run(http) for _ in range(40)))

    found = asyncio.run(all_runs())

    assert found == [alone] * 40
