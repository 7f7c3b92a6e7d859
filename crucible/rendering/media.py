"""Image types, detected from the bytes."""

import base64
import binascii
from typing import Final

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")


def image_media_type(data: bytes) -> str | None:
    """Return the media type of an image, or None when the bytes are no image of a type in ``IMAGE_TYPES``."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def decode_image(text: str, media_type: str | None) -> bytes:
    """Decode an image from base64 and check its type.

    Raises:
        ValueError: the text is not base64, the bytes are no image, or its type is not ``media_type``.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"not valid base64 ({exc})") from None
    actual = image_media_type(data)
    if actual is None:
        raise ValueError(f"the bytes are not an image; allowed are {', '.join(IMAGE_TYPES)}")
    if media_type is not None and media_type != actual:
        raise ValueError(f"media_type is {media_type}, but the bytes are {actual}")
    return data
