"""A stub of the package verifiers, as far as our adapter uses it, with an environment.

The environment asks for a text in reverse. It leads the rollout itself, and asks a client of OpenAI's API. The
real package is in tests/peers.
"""

from pathlib import Path
from typing import Any, Final

ROWS: Final = [{"question": text, "answer": text[::-1]} for text in ("abc", "xyz", "no")]
_METADATA: Final = "Metadata-Version: 2.1\nName: reverse-text\nVersion: 1.0\nRequires-Dist: verifiers\n"


class _Rubric:
    """The part of the answer's letters that stand where they should."""

    def _get_group_reward_funcs(self) -> list[Any]:
        return []

    async def score_rollout(self, state: dict[str, Any], score_sem: Any) -> None:
        del score_sem
        answer, wanted = state["completion"][-1]["content"], state["answer"]
        right = sum(one == other for one, other in zip(answer, wanted, strict=False))
        state |= {"reward": right / len(wanted) + len(answer) / 100, "metrics": {"length": float(len(answer))}}


class _ReverseText:
    """Two turns: the text, and whether the model is sure."""

    message_type = "chat"
    rubric = _Rubric()

    def get_dataset(self) -> list[dict[str, str]]:
        return ROWS

    get_eval_dataset = get_dataset

    async def rollout(
        self, row: dict[str, Any], client: Any, model: str, sampling: dict[str, Any]
    ) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": f"Reverse {row['question']}."}]
        for asked in ("Are you sure?", None):
            answer = await client.chat.completions.create(model=model, messages=list(messages), **sampling)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            if asked is not None:
                messages.append({"role": "user", "content": asked})
        return {"completion": messages, "answer": row["answer"], "error": None}


def load_environment(name: str, **settings: Any) -> _ReverseText:
    """The environment of this stub, which has no settings."""
    assert (name, settings) == ("reverse-text", {})
    return _ReverseText()


def install(folder: Path) -> Path:
    """Write packages to put on the path: verifiers, which is this module, and one of its environments."""
    place = folder / "packages"
    for name in ("reverse_text-1.0.dist-info", "verifiers/envs"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "verifiers" / "__init__.py").write_text(f"from {__name__} import load_environment\n")
    (place / "verifiers" / "envs" / "__init__.py").write_text("")
    (place / "verifiers" / "envs" / "environment.py").write_text("import signal\n")
    (place / "reverse_text-1.0.dist-info" / "METADATA").write_text(_METADATA)
    (place / "reverse_text-1.0.dist-info" / "top_level.txt").write_text("reverse_text\n")
    return place
