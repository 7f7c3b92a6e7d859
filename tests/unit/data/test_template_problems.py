"""Rows that a model's chat template cannot render are refused at submit, all at once and with their lines."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from backends.fake import FakeBackend
from crucible.rendering.tokenizer import Tokenizer
from nsai_work import Job, Settings, submit
from nsai_work.client.connections import close_connections, job_store
from nsai_work.errors import InvalidJob
from tests.template_rig import TEMPLATE, tokenizer

pytestmark = pytest.mark.filterwarnings("default")

USER = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "b"}
GOOD = {"messages": [USER, ANSWER]}
TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('No system turns.') }}{% endif %}"
    "{% endfor %}" + TEMPLATE
)
SYSTEM = {"messages": [{"role": "system", "content": "S"}, USER, ANSWER]}
CASES: dict[str, tuple[str | None, dict[int, tuple[object, str]]]] = {
    "none": (None, dict.fromkeys((1, 2, 3), (GOOD, "no chat template"))),
    "raises": (REFUSES_SYSTEM, {1: (SYSTEM, "No system turns"), 3: (SYSTEM, "No system turns")}),
    "drops": (
        TEMPLATE,
        {
            1: ({"messages": [{**USER, "name": "kim"}, ANSWER]}, "messages[0].name"),
            3: ({"messages": [USER, ANSWER], "tools": [TOOL]}, "tools"),
            4: ({"messages": [USER, {**ANSWER, "reasoning_content": "hm"}]}, "messages[1].thinking"),
        },
    ),
}
"""By name: a template, and the bad rows with what is said about them, by line; the other lines are good."""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of an embedded store."""
    yield Settings(home=tmp_path / "home")
    close_connections()


@pytest.mark.parametrize(("template", "bad"), CASES.values(), ids=CASES)
def test_rows_that_a_template_cannot_render_are_refused_at_submit(
    template: str | None,
    bad: dict[int, tuple[object, str]],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the reason of each; nothing is stored."""

    async def with_template(self: FakeBackend, base_model: str) -> Tokenizer:
        return tokenizer(template)

    monkeypatch.setattr(FakeBackend, "tokenizer", with_template)
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(bad.get(line, (GOOD, ""))[0]) + "\n" for line in range(1, max(bad) + 1)))
    payload = {"base_model": "tiny-lm", "data": {"path": str(file)}, "max_steps": 1}
    job = Job.parse({"kind": "training_step", "backend": "fake", "payload": payload})

    with pytest.raises(InvalidJob) as caught:
        submit(job, settings)

    head, *lines = caught.value.message.splitlines()
    assert head == f"payload.data.path: {file}: {len(bad)} of {max(bad)} rows are bad:"
    assert [line.split(":")[0] for line in lines] == [f"line {line}" for line in bad]
    for line, (_, said) in zip(lines, bad.values(), strict=True):
        assert said in line
    assert not (settings.home / "nsai-work.db").exists() or job_store(settings).list_jobs() == []
