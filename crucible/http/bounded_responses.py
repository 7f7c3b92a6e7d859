"""HTTP responses that are decompressed within a limit, for clients of ``httpx`` and of its successor ``httpx2``."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any, Final

from crucible.http.decompression import BodyDecoder

_BOM: Final = b"\xef\xbb\xbf"


def bounded_responses(limit: int | None) -> Callable[[Any], Awaitable[None]]:
    """A response hook: ``AsyncClient(event_hooks={"response": [bounded_responses(limit)]})``.

    The client then reads decoded bodies, without the byte order mark that some servers put before text, and reading
    raises ``InvalidBody`` for one that is larger than ``limit`` bytes or not in its declared encoding. Decoders of
    the client's own are not used: they decompress without a bound.
    """

    async def replace_stream(response: Any) -> None:
        encoding = response.headers.pop("content-encoding", "")
        media_type = response.headers.get("content-type", "").lower()
        is_text = media_type.startswith("text/") or "json" in media_type
        base = next(kind for kind in type(response.stream).__mro__ if kind.__name__ == "AsyncByteStream")
        response.stream = _stream_class(base)(response.stream, encoding, limit, is_text)

    return replace_stream


@cache
def _stream_class(base: type) -> type:
    """The class of decoded streams; the library accepts only subclasses of its own ``base``."""

    class DecodedStream(base):  # type: ignore[misc]
        def __init__(self, inner: Any, encoding: str, limit: int | None, is_text: bool) -> None:
            self._inner = inner
            self._encoding = encoding
            self._limit = limit
            self._is_text = is_text

        async def __aiter__(self) -> AsyncIterator[bytes]:
            decoder = BodyDecoder(self._encoding, self._limit)
            head: bytes | None = b"" if self._is_text else None
            async for data in self._inner:
                for block in decoder.feed(data):
                    if head is None:
                        yield block
                        continue
                    head += block
                    if len(head) >= len(_BOM) or not _BOM.startswith(head):
                        yield head.removeprefix(_BOM)
                        head = None
            if head:
                yield head
            decoder.finish()

        async def aclose(self) -> None:
            await self._inner.aclose()

    return DecodedStream
