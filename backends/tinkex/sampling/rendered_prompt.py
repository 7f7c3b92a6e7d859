"""Rendering of prompts: the model's tokenizer, and its chat template's tokens and images."""

from functools import partial
from typing import Final, Literal
from urllib.parse import urlsplit

from backends.tinkex.client.tokenizers import load_image_processor, load_tokenizer
from backends.tinkex.errors import BACKEND
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_info import GetInfoResponse, ModelData
from backends.tinkex.types.model_input import EncodedTextChunk, ImageAssetPointerChunk, ModelInput
from crucible.errors import Unsupported
from crucible.rendering.chat import Chat, PlacedImage
from crucible.rendering.chat_template import TemplateTokenizer
from crucible.rendering.tokenizer import Tokenizer

_FORMATS: Final[dict[str | None, Literal["png", "jpeg"]]] = {"image/png": "png", "image/jpeg": "jpeg"}
_ENDINGS: Final = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def tokenizer_named(name: str) -> Tokenizer:
    """Load a tokenizer by name. Reads files or the network, so call it in a thread.

    Raises:
        Unsupported: a required package is not installed.
        NotFound: there is no tokenizer of that name.
    """
    tokenizer = load_tokenizer(GetInfoResponse(model_data=ModelData(tokenizer_id=name)))
    return (
        tokenizer
        if isinstance(tokenizer, Tokenizer)
        else TemplateTokenizer(name, tokenizer, partial(load_image_processor, name))
    )


def model_input(chat: Chat, tokenizer: Tokenizer) -> ModelInput:
    """Render a chat as the template's tokens, with images in their places.

    Raises:
        Unsupported: the service does not accept an image's type, or the template has no place for it.
        InvalidRequest: the template rejects the conversation.
    """
    images = [image_chunk(placed) for placed in chat.images]
    tokens = tokenizer.render_chat(chat)
    if not images:
        return ModelInput.from_ints(tokens)
    marker = tokenizer.features.image_token
    positions = [position for position, token in enumerate(tokens) if token == marker]
    if len(positions) != len(images):
        raise _unsupported_image(chat.images[0].place, "the model's template has no place for an image there")
    chunks: list[EncodedTextChunk | ImageChunk | ImageAssetPointerChunk] = []
    begin = 0
    for position, image in zip(positions, images, strict=True):
        if position > begin:
            chunks.append(EncodedTextChunk(tokens=tokens[begin:position]))
        chunks.append(image)
        begin = position + 1
    return ModelInput(chunks=[*chunks, EncodedTextChunk(tokens=tokens[begin:])])


def image_chunk(placed: PlacedImage) -> ImageChunk | ImageAssetPointerChunk:
    """Return the chunk of an image: its bytes, or the URL from which the service fetches it.

    Raises:
        Unsupported: it is neither PNG nor JPEG, or its type is unknown.
    """
    image, field = placed.image, placed.place
    if image.url is not None and not image.url.startswith("data:"):
        path = urlsplit(image.url).path
        media_type = image.media_type or _ENDINGS.get(path[path.rfind(".") :].lower())
        return ImageAssetPointerChunk(location=image.url, format=_format(media_type, field))
    if image.base64 is not None:
        return ImageChunk.model_validate({"data": image.base64, "format": _format(image.media_type, field)})
    head, _, data = str(image.url).partition(",")
    media_type = head.removeprefix("data:").partition(";")[0]
    return ImageChunk.model_validate({"data": data, "format": _format(media_type, field)})


def _format(media_type: str | None, field: str) -> Literal["png", "jpeg"]:
    try:
        return _FORMATS[media_type]
    except KeyError:
        actual = "an image of unknown type (set media_type)" if media_type is None else media_type
        raise _unsupported_image(field, f"the service accepts PNG and JPEG, not {actual}") from None


def _unsupported_image(field: str, reason: str) -> Unsupported:
    return Unsupported(f"{field}: {reason}", backend=BACKEND, details={"field": field})
