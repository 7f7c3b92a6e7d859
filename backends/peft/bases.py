"""Base models and tokenizers by name: from a folder, the model hub, or a tiny generated model."""

import hashlib
from typing import Any

from backends.peft.settings import BACKEND, TINY, PeftSettings
from crucible.errors import BackendUnavailable, InvalidRequest, Unsupported
from crucible.rendering.chat_template import TemplateTokenizer
from crucible.rendering.tokenizer import ByteTokenizer, Tokenizer
from nsai_work.files.user_paths import expanded


class Bases:
    """Loads base models and tokenizers. Blocking, and slow for big models."""

    def __init__(self, settings: PeftSettings) -> None:
        self._settings = settings
        self._tokenizers: dict[str, Tokenizer] = {}

    def names(self) -> tuple[str, ...]:
        """The configured names."""
        return tuple(self._settings.sources())

    def source(self, name: str) -> str:
        """The source of a base model; a model's folder is its own source. Raises InvalidRequest."""
        sources = self._settings.sources()
        if name in sources:
            return str(expanded(sources[name]))
        if (expanded(name) / "config.json").is_file():
            return str(expanded(name))
        raise InvalidRequest.of(
            "base_model", name, f"allowed are {', '.join(sources)}, and folders of models", backend=BACKEND
        )

    def device(self) -> str:
        """The torch device of all models."""
        torch = import_torch()
        return self._settings.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def model(self, name: str) -> Any:
        """Load a new instance of a base model onto the device. Raises BackendUnavailable if that fails."""
        source = self.source(name)
        model = _tiny(name) if source == TINY else self._load(source)
        return model.to(self.device())

    def tokenizer(self, name: str) -> Tokenizer:
        """The tokenizer of a base model. Raises BackendUnavailable if it cannot be loaded."""
        if name not in self._tokenizers:
            source = self.source(name)
            self._tokenizers[name] = ByteTokenizer() if source == TINY else _load_tokenizer(source)
        return self._tokenizers[name]

    def _load(self, source: str) -> Any:
        import_torch()
        from transformers import AutoModelForCausalLM

        dtype = self._settings.dtype
        if dtype == "auto" and self.device() == "cpu":
            dtype = "float32"
        try:
            return AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        except (OSError, ValueError) as exc:
            raise BackendUnavailable(f"the model {source} cannot be loaded: {exc}", backend=BACKEND) from exc


def import_torch() -> Any:
    """Import torch. Raises Unsupported if the extra is not installed."""
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
    """Seed torch from a hash of words. Call it within ``torch.random.fork_rng``."""
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


def _load_tokenizer(source: str) -> Tokenizer:
    import_torch()
    from transformers import AutoTokenizer

    try:
        return TemplateTokenizer(source, AutoTokenizer.from_pretrained(source))
    except (OSError, ValueError) as exc:
        raise BackendUnavailable(f"the tokenizer of {source} cannot be loaded: {exc}", backend=BACKEND) from exc
