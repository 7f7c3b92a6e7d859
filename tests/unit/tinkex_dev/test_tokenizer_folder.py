"""The tokenizer's folder: transformers loads it and reads text as our own tokenizer does (``make extras``)."""

from pathlib import Path

import pytest

from backends.tinkex_dev.storage.tokenizer_folder import write_tokenizer
from crucible.rendering.tokenizer import ByteTokenizer

OURS = ByteTokenizer()
TEXTS = ("Hi there\n", "größe 漢字 😀", "  a\tb\x00\x7f", "don't 's", "".join(map(chr, range(256))))
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "größe?"}]


def test_the_path_ends_with_the_tokenizers_own_name(tmp_path: Path) -> None:
    """By which our client knows it without transformers; it is absolute."""
    place = write_tokenizer(tmp_path / "state")

    assert place.is_absolute()
    assert str(place).endswith(OURS.tokenizer_id)


def test_transformers_reads_text_and_conversations_as_our_own_tokenizer(tmp_path: Path) -> None:
    """The ids of every byte and marker, both ways."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(write_tokenizer(tmp_path)), fast=True)

    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ids == OURS.encode(text)
        assert theirs.decode(ids) == text
    assert len(theirs) == OURS.vocab_size
    assert theirs.eos_token_id == OURS.END
    prompt = theirs.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)
    assert prompt == OURS.render_prompt(TURNS)
