"""Base models by name: loaded from a folder or the hub, or the tiny one that is made here."""

import hashlib
from pathlib import Path
from typing import Any

from backends.peft.settings import BACKEND, TINY, PeftSettings
from crucible.chat_template import TemplateTokenizer
from crucible.errors import BackendUnavailable, InvalidRequest, Unsupported
from crucible.tokenizer import ByteTokenizer, Tokenizer


class Bases:
    """Makes base models and tokenizers. Blocking, and slow for big ones: call it in a thread."""

    def __init__(self, settings: PeftSettings) -> None:
        self._settings = settings
        self._tokenizers: dict[str, Tokenizer] = {}

    def names(self) -> tuple[str, ...]:
        """The names that lead somewhere."""
        return tuple(self._settings.places())

    def place(self, name: str) -> str:
        """Where a name leads; a folder that holds a model leads to itself. Raises InvalidRequest."""
        places = self._settings.places()
        if name in places:
            return places[name]
        if (Path(name) / "config.json").is_file():
            return name
        raise InvalidRequest.of(
            "base_model", name, f"allowed are {', '.join(places)}, and folders that hold a model", backend=BACKEND
        )

    def device(self) -> str:
        """Where models live."""
        torch = import_torch()
        return self._settings.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def model(self, name: str) -> Any:
        """A base model of one's own, on its device. Raises BackendUnavailable when it cannot be had."""
        place = self.place(name)
        model = _tiny(name) if place == TINY else self._load(place)
        return model.to(self.device())

    def tokenizer(self, name: str) -> Tokenizer:
        """The tokenizer of a base model. Raises BackendUnavailable when it cannot be had."""
        if name not in self._tokenizers:
            place = self.place(name)
            self._tokenizers[name] = ByteTokenizer() if place == TINY else _load_tokenizer(place)
        return self._tokenizers[name]

    def _load(self, place: str) -> Any:
        import_torch()
        from transformers import AutoModelForCausalLM

        dtype = self._settings.dtype
        if dtype == "auto" and self.device() == "cpu":
            dtype = "float32"
        try:
            return AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
        except (OSError, ValueError) as exc:
            raise BackendUnavailable(f"the model {place} cannot be loaded: {exc}", backend=BACKEND) from exc


def import_torch() -> Any:
    """The package torch. Raises Unsupported when the extra is not installed."""
    try:
        import peft
        import torch
        import transformers
    except ImportError as exc:
        raise Unsupported(
            f"the package {exc.name} is not installed; pip install 'nsai-work[peft]'", backend=BACKEND
        ) from exc
    del peft, transformers
    return torch


def seeded(torch: Any, *words: object) -> None:
    """Seed torch from words. Call it under ``torch.random.fork_rng``."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "little"))


def _tiny(name: str) -> Any:
    torch = import_torch()
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = ByteTokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.END,
        pad_token_id=tokenizer.PAD,
    )
    with torch.random.fork_rng():
        seeded(torch, "tiny-llama", name)
        return LlamaForCausalLM(config)


def _load_tokenizer(place: str) -> Tokenizer:
    import_torch()
    from transformers import AutoTokenizer

    try:
        return TemplateTokenizer(place, AutoTokenizer.from_pretrained(place))
    except (OSError, ValueError) as exc:
        raise BackendUnavailable(f"the tokenizer of {place} cannot be loaded: {exc}", backend=BACKEND) from exc
