"""The tokenizer of a model that is not the development server's."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from backends.tinkex.client.tokenizers import load_tokenizer
from backends.tinkex.sampling.rendered_prompt import tokenizer_named
from backends.tinkex.types import GetInfoResponse, ModelData
from crucible.errors import Unsupported


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of this package's own extra."""
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(Unsupported, match=r'some/model needs .* pip install "nsai-work\[transformers\]"'):
        tokenizer_named("some/model")


def test_threads_that_load_tokenizers_at_once_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's names are imported on first access, and fail in a thread that comes during another's."""
    importing, second = threading.Lock(), threading.Event()

    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name != "AutoTokenizer":
                raise AttributeError(name)
            if not importing.acquire(blocking=False):
                second.set()
                raise AttributeError(name)
            second.wait(0.1)
            importing.release()
            return type("Loader", (), {"from_pretrained": staticmethod(str.upper)})

    monkeypatch.setitem(sys.modules, "transformers", Lazy("transformers"))
    info = GetInfoResponse(model_data=ModelData(tokenizer_id="some/model"))

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(load_tokenizer, [info, info])) == ["SOME/MODEL"] * 2
