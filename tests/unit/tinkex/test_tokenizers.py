"""The tokenizer of a model that is not the development server's."""

import sys

import pytest

from backends.tinkex.render import tokenizer_named
from crucible.errors import Unsupported


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of this package's own extra."""
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(Unsupported, match=r'some/model needs .* pip install "nsai-work\[transformers\]"'):
        tokenizer_named("some/model")
