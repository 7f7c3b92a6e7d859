"""A model's own chat template renders prompts and examples; only what the assistant says is trained."""

import pytest

pytest.importorskip("transformers")

from crucible import InvalidRequest, Unsupported
from crucible.chat_template import TemplateTokenizer

pytestmark = pytest.mark.filterwarnings("default")

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [
    {"role": "user", "content": "Grüß dich!"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye."},
    {"role": "assistant", "content": "See you."},
]


def tokenizer(template: str | None = TEMPLATE) -> TemplateTokenizer:
    """Bytes, and the special tokens of the template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    made.chat_template = template
    return TemplateTokenizer("test", made)


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
