"""Loading of a model's tokenizer by the names that a server gives."""

import threading
from typing import Any, Final

from backends.tinkex.errors import BACKEND
from backends.tinkex.types.model_info import GetInfoResponse
from crucible.errors import NotFound, Unsupported
from crucible.runtime.forks import reset_after_fork

_BYTE_TOKENIZER: Final = "nsai/byte-320"
_BYTE_VOCABULARY: Final = 320
_IMPORTING = threading.Lock()


def known_vocab_size(info: GetInfoResponse) -> int | None:
    """Return the vocabulary size if it is known without loading the tokenizer."""
    return _BYTE_VOCABULARY if _is_bytes(info.model_data.tokenizer_id) else None


def _is_bytes(name: str | None) -> bool:
    # the dev server names a folder, whose path ends with the tokenizer's own name
    return name is not None and (name == _BYTE_TOKENIZER or name.endswith(f"/{_BYTE_TOKENIZER}"))


def load_tokenizer(info: GetInfoResponse) -> Any:
    """Load crucible's ``ByteTokenizer`` for its own id or folder, else a ``transformers`` tokenizer.

    Raises:
        Unsupported: ``transformers`` is not installed, or the server names no tokenizer.
        NotFound: there is no tokenizer of that name.
    """
    name = info.model_data.tokenizer_id or info.base_model
    if _is_bytes(name):
        from crucible.rendering.tokenizer import ByteTokenizer

        return ByteTokenizer()
    if not name:
        raise Unsupported("the server names neither a tokenizer nor a base model", backend=BACKEND)
    try:
        # transformers imports its names on first access, which fails in a second thread at the same time
        reset_after_fork(_reset)
        with _IMPORTING:
            from transformers import AutoTokenizer
    except ImportError as error:
        remedy = 'pip install "nsai-work[transformers]"'
        raise Unsupported(
            f"the tokenizer {name} needs the package transformers: {remedy}", backend=BACKEND
        ) from error
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise NotFound(f"no tokenizer {name}: {error}", backend=BACKEND) from error


def load_image_processor(name: str) -> Any:
    """Load the image processor of a model from ``transformers``.

    Raises:
        Unsupported: there is none, or a required package is not installed.
    """
    try:
        with _IMPORTING:
            from transformers import AutoImageProcessor
        return AutoImageProcessor.from_pretrained(name)
    except (ImportError, OSError, ValueError) as error:
        raise Unsupported(f"the image processor of {name} cannot be loaded: {error}", backend=BACKEND) from error


def _reset() -> None:
    global _IMPORTING  # a thread that held it does not exist in a forked child
    _IMPORTING = threading.Lock()
