"""One evaluation by inspect_ai, run by its own Python: argv[1] is the model, argv[2] a file for what was answered.

The provider ``openai-api`` reads NSAI_BASE_URL and NSAI_API_KEY.
"""

import json
import sys

from inspect_ai import Task, eval, task  # noqa: A004 - its public name
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool


@tool
def go():
    """Goes there."""

    async def execute(to: str) -> str:
        """Goes there.

        Args:
            to: Where to.
        """
        return f"arrived in {to}"

    return execute


CASES = {
    "plain": ([generate()], {}),
    "streamed": ([generate()], {}),
    "stop": ([generate()], {"stop_seqs": [", to"]}),
    "several": ([generate()], {"num_choices": 2}),
    "logprobs": ([generate()], {"logprobs": True, "top_logprobs": 2}),
    "tools": ([use_tools(go()), generate(tool_calls="single")], {}),
    "streamed-tools": ([use_tools(go()), generate(tool_calls="single")], {}),
}


def main() -> None:
    """Evaluate each case, and write its log's first sample."""
    model, out = sys.argv[1:]
    found = {}
    for name, (solver, config) in CASES.items():

        @task
        def asking(solver=solver):
            return Task(dataset=[Sample(input="Where to?", target="Bonn")], solver=solver, scorer=includes())

        settings = GenerateConfig(temperature=0, max_tokens=100, max_retries=0, **config)
        [log] = eval(
            asking(),
            model=get_model(
                model, config=settings, strict_tools=False, stream=name.startswith("streamed"), memoize=False
            ),
            display="none",
            log_dir=f"{out}.logs",
        )
        if log.status != "success":
            found[name] = {"error": str(log.error)}
            continue
        sample = log.samples[0]
        output = sample.output
        found[name] = {
            "score": sample.scores["includes"].value,
            "texts": [choice.message.text for choice in output.choices],
            "stop_reason": output.stop_reason,
            "usage": output.usage.output_tokens if output.usage else None,
            "logprobs": len(output.choices[0].logprobs.content) if output.choices[0].logprobs else None,
            "calls": [
                [call.function, call.arguments]
                for message in sample.messages
                for call in getattr(message, "tool_calls", None) or []
            ],
            "streams": [
                bool(event.call.request.get("stream")) for event in sample.events if event.event == "model"
            ],
            "roles": [message.role for message in sample.messages],
        }
    with open(out, "w") as file:  # noqa: PTH123
        json.dump(found, file)


if __name__ == "__main__":
    main()
