"""From a prompt to what the service is given: the model's own tokenizer, and its template's tokens and images."""

from typing import Final, Literal
from urllib.parse import urlsplit

from backends.tinkex.client.tokenizers import load_tokenizer
from backends.tinkex.errors import BACKEND
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_info import GetInfoResponse, ModelData
from backends.tinkex.types.model_input import EncodedTextChunk, ImageAssetPointerChunk, ModelInput
from crucible.chat import Chat, PlacedImage
from crucible.chat_template import TemplateTokenizer
from crucible.errors import Unsupported
from crucible.tokenizer import Tokenizer

_FORMATS: Final[dict[str | None, Literal["png", "jpeg"]]] = {"image/png": "png", "image/jpeg": "jpeg"}
_ENDINGS: Final = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def tokenizer_named(name: str) -> Tokenizer:
    """The tokenizer of that name. May read files or the network: call it in a thread.

    Raises:
        Unsupported: it needs a package that is not installed.
        NotFound: there is none of that name.
    """
    found = load_tokenizer(GetInfoResponse(model_data=ModelData(tokenizer_id=name)))
    return found if isinstance(found, Tokenizer) else TemplateTokenizer(name, found)


def model_input(chat: Chat, tokenizer: Tokenizer) -> ModelInput:
    """The template's tokens, with each image in its place.

    Raises:
        Unsupported: an image is of a kind that the service does not take, or stands where none can.
        InvalidRequest: the template refuses the conversation.
    """
    images = [image_chunk(placed) for placed in chat.images]
    tokens = tokenizer.render_chat(chat)
    if not images:
        return ModelInput.from_ints(tokens)
    marker = tokenizer.features.image_token
    places = [place for place, token in enumerate(tokens) if token == marker]
    if len(places) != len(images):
        raise _no_image(chat.images[0].place, "the model's template has no place for an image there")
    chunks: list[EncodedTextChunk | ImageChunk | ImageAssetPointerChunk] = []
    at = 0
    for place, image in zip(places, images, strict=True):
        if place > at:
            chunks.append(EncodedTextChunk(tokens=tokens[at:place]))
        chunks.append(image)
        at = place + 1
    return ModelInput(chunks=[*chunks, EncodedTextChunk(tokens=tokens[at:])])


def image_chunk(placed: PlacedImage) -> ImageChunk | ImageAssetPointerChunk:
    """An image as the service takes it: its bytes, or the address at which the service fetches it.

    Raises:
        Unsupported: it is neither PNG nor JPEG, as far as can be told.
    """
    image, place = placed.image, placed.place
    if image.url is not None and not image.url.startswith("data:"):
        path = urlsplit(image.url).path
        told = image.media_type or _ENDINGS.get(path[path.rfind(".") :].lower())
        return ImageAssetPointerChunk(location=image.url, format=_format(told, place))
    if image.base64 is not None:
        return ImageChunk.model_validate({"data": image.base64, "format": _format(image.media_type, place)})
    head, _, data = str(image.url).partition(",")
    told = head.removeprefix("data:").partition(";")[0]
    return ImageChunk.model_validate({"data": data, "format": _format(told, place)})


def _format(media_type: str | None, place: str) -> Literal["png", "jpeg"]:
    try:
        return _FORMATS[media_type]
    except KeyError:
        told = "an image of unknown type (say media_type)" if media_type is None else media_type
        raise _no_image(place, f"the service takes PNG and JPEG, not {told}") from None


def _no_image(place: str, why: str) -> Unsupported:
    return Unsupported(f"{place}: {why}", backend=BACKEND, details={"field": place})
