"""The tokenizer of a model by its name: our own for the development server's, else that of ``transformers``."""

from backends.tinkex.client.tokenizers import load_tokenizer
from backends.tinkex.types.model_info import GetInfoResponse, ModelData
from crucible.chat_template import TemplateTokenizer
from crucible.tokenizer import Tokenizer


def tokenizer_named(name: str) -> Tokenizer:
    """The tokenizer of that name. May read files or the network: call it in a thread.

    Raises:
        Unsupported: it needs a package that is not installed.
        NotFound: there is none of that name.
    """
    found = load_tokenizer(GetInfoResponse(model_data=ModelData(tokenizer_id=name)))
    return found if isinstance(found, Tokenizer) else TemplateTokenizer(name, found)
