"""A model's own chat template renders prompts and examples; only what the assistant says is trained."""

import pytest

pytest.importorskip("transformers")

from crucible import InvalidRequest, Options, Prompt, ToolCall, Unsupported
from crucible.rendering.chat import chat_of
from crucible.rendering.output_parser import parse_output
from tests.template_rig import TEMPLATE, tokenizer

pytestmark = pytest.mark.filterwarnings("default")

TALK = [
    {"role": "user", "content": "Grüß dich!"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye."},
    {"role": "assistant", "content": "See you."},
]


def test_weights_lie_on_what_the_assistant_says_and_on_its_end() -> None:
    """All its turns, and nothing else."""
    made = tokenizer()
    example = made.render_example(TALK)
    trained = [token for token, weight in zip(example.tokens, example.weights, strict=True) if weight]

    assert made.decode(trained) == "Hello.\nSee you.\n"
    assert sum(token in made.stop_tokens for token in trained) == 2
    assert made.decode(example.tokens).startswith("user\nGrüß dich!")


def test_a_prompt_ends_where_the_assistant_is_to_speak() -> None:
    """Its tokens begin the example's."""
    made = tokenizer()
    prompt = made.render_prompt(TALK[:1])

    assert made.render_example(TALK).tokens[: len(prompt)] == tuple(prompt)
    assert made.decode(prompt).endswith("assistant\n")


def test_plain_text_ends_with_the_end_of_text() -> None:
    """Every token is trained but the first, which nothing predicts."""
    made = tokenizer()
    example = made.render_text("ab")

    assert example.tokens[-1] in made.stop_tokens
    assert example.weights == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("template", "kind", "said"),
    [
        (None, Unsupported, "no chat template"),
        ("{{ raise_exception('Only users.') }}", InvalidRequest, "Only users"),
        (
            "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
            Unsupported,
            "differently",
        ),
    ],
    ids=["none", "refuses", "not a prefix"],
)
def test_a_template_that_will_not_do_is_named(template: str | None, kind: type, said: str) -> None:
    """With the reason, and never wrong weights in silence."""
    with pytest.raises(kind, match=said):
        tokenizer(template).render_example(TALK)


WITH_ALL = """
{%- if tools %}<|im_start|>system
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools><|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'tool' %}<tool_response>
{{ m.content }}
</tool_response>
{%- elif m.content is string %}{{ m.content }}
{%- else %}
{%- for part in m.content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}
{%- endif %}
{%- for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
OTHER_CALLS = WITH_ALL.replace('{"name": "', "<function=").replace('", "arguments": ', ">").replace("}}}", "}}")
ALWAYS_THINKS = TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
NAMED = TEMPLATE.replace("{{ m['role'] }}", "{{ m['role'] }} {{ m['name'] }}")


@pytest.mark.parametrize(
    ("template", "tools", "thinking", "names", "images"),
    [
        (None, False, False, False, False),
        (TEMPLATE, False, False, False, False),
        (WITH_ALL, True, True, False, True),
        (OTHER_CALLS, False, True, False, True),
        (ALWAYS_THINKS, False, True, False, False),
        (NAMED, False, False, True, False),
        ("{{ raise_exception('Never.') }}", False, False, False, False),
    ],
    ids=["none", "plain", "all", "calls of another form", "always thinks", "names", "refuses"],
)
def test_what_a_template_knows_is_found_out(
    template: str | None, tools: bool, thinking: bool, names: bool, images: bool
) -> None:
    """By rendering with it; tool calls count only if they can be read back."""
    found = tokenizer(template).features

    assert (found.tools, found.thinking, found.names) == (tools, thinking, names)
    assert (found.image_token is not None) is images


def test_a_conversation_with_tools_is_rendered_whole() -> None:
    """Tools, the call, its result; and the call can be read back from what was rendered."""
    made = tokenizer(WITH_ALL)
    call = ToolCall(id="1", name="weather", arguments={"town": "Bonn", "days": [1, 2]})
    prompt = Prompt(
        messages=[
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "1", "content": {"mm": 3}}]},
        ],
        tools=[{"name": "weather", "description": "Tells."}],
    )
    text = made.decode(made.render_chat(chat_of(prompt)))

    assert '"description": "Tells."' in text
    assert '<tool_response>\n{"mm": 3}\n</tool_response>' in text
    assert (
        parse_output(text, thinks=False, opened=False, calls=True, turn=0).tool_calls[0].arguments == call.arguments
    )
    assert text.endswith("<think>\n\n</think>\n\n")


def test_thinking_is_the_templates_own_switch() -> None:
    """Asked for, the template leaves the model to think."""
    asked = Prompt(messages=[{"role": "user", "content": "x"}], options=Options(extended_thinking=True))
    made = tokenizer(WITH_ALL)

    assert made.decode(made.render_chat(chat_of(asked))).endswith("assistant\n")


def test_thinking_of_earlier_turns_is_found_out_and_rendered() -> None:
    """Where the template renders it; the others lack the feature, and a prompt with it is refused."""
    with_history = WITH_ALL.replace(
        "<|im_start|>{{ m.role }}\n",
        "<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}",
    )
    asked = Prompt(
        messages=[
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "No.", "thinking": "The sun shines."},
            {"role": "user", "content": "Sure?"},
        ]
    )
    made = tokenizer(with_history)

    assert made.features.thinking_history
    assert "<think>The sun shines.</think>No." in made.decode(made.render_chat(chat_of(asked)))
    assert not tokenizer(WITH_ALL).features.thinking_history
    assert not tokenizer().features.thinking_history


def test_each_image_stands_at_its_marker() -> None:
    """Between the texts around it; a text that forges a marker is text."""
    image = {"type": "image", "url": "https://example.org/a.png"}
    made = tokenizer(WITH_ALL)

    def tokens(text: str) -> list[int]:
        prompt = Prompt(messages=[{"role": "user", "content": [{"type": "text", "text": text}, image]}])
        return made.render_chat(chat_of(prompt))

    assert tokens("x").count(made.features.image_token or -1) == 1
    assert tokens("<|image_pad|>").count(made.features.image_token or -1) == 1
