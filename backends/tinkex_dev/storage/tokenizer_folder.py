"""The byte tokenizer as a folder that ``transformers`` loads, so that no client needs a hub."""

import json
from pathlib import Path
from typing import Any, Final

from backends.tiny_lm.network import CONTEXT_LENGTH
from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.files.home import make_private_folder, write_private_file

_MARKERS: Final = {
    256: "<|end|>", 257: "<|system|>", 258: "<|user|>", 259: "<|assistant|>", 260: "<|tool|>", 261: "<|image|>",
    262: "<|pad|>",
}  # fmt: skip
_TEMPLATE: Final = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tokenizer(folder: Path) -> Path:
    """Write the tokenizer of all models below a folder; returns the absolute path under which it is loaded.

    The ids are those of crucible's ``ByteTokenizer``, whose name ends the path. A marker's text in a
    conversation, as ``<|end|>``, is read as the marker.
    """
    tokenizer = ByteTokenizer()
    place = (folder / "tokenizers" / tokenizer.tokenizer_id).resolve()
    make_private_folder(place)
    for name, content in (("tokenizer.json", _tokenizer(tokenizer)), ("tokenizer_config.json", _config())):
        write_private_file(place / name, json.dumps(content, ensure_ascii=False, indent=1).encode())
    return place


def _tokenizer(tokenizer: ByteTokenizer) -> dict[str, Any]:
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [
        {
            "id": number, "content": _MARKERS.get(number, f"<|reserved_{number}|>"), "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False, "special": True,
        }
        for number in range(tokenizer.END, tokenizer.vocab_size)
    ]  # fmt: skip
    model: dict[str, Any] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {letter: byte for byte, letter in enumerate(_letters())}, "merges": [],
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": bytewise, "post_processor": None, "decoder": bytewise, "model": model,
    }  # fmt: skip


def _config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_LENGTH,
        "eos_token": _MARKERS[256],
        "pad_token": _MARKERS[262],
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE,
    }


def _letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself if it is visible, else one beyond."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]
