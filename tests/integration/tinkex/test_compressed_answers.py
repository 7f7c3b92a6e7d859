"""Compressed bodies: bounded while they are decompressed, in the client and in the dev server."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import pytest
import zstandard
from pydantic import SecretStr

from backends.tinkex.settings import Endpoint
from backends.tinkex.wire.transport import HttpLimits, HttpRequest, HttpResponse, HttpTransport
from backends.tinkex_dev.http import gate
from backends.tinkex_dev.server import DevServer
from backends.tinkex_dev.wire import exchange
from crucible import CrucibleError, MalformedAnswer

LIMIT = 1 << 20


COMPRESSORS: dict[str, Callable[[], Any]] = {
    "zstd": lambda: zstandard.ZstdCompressor(level=1).compressobj(),
    "gzip": lambda: zlib.compressobj(wbits=31),
    "deflate": lambda: zlib.compressobj(),
}
BOMBS = [*COMPRESSORS, "identity"]


@cache
def bomb(encoding: str) -> bytes:
    """A body of less than a megabyte that becomes 100 MiB, which are never in memory at once, here neither."""
    if encoding == "identity":
        return bytes(2 << 20)
    compressor, million = COMPRESSORS[encoding](), bytes(1 << 20)
    return b"".join([*(compressor.compress(million) for _ in range(100)), compressor.flush()])


async def answered(body: bytes, encoding: str, status: int = 200) -> HttpResponse:
    """The client's response from a server that sends this body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint(f"http://127.0.0.1:{port}", SecretStr("tml-x"))
    transport = HttpTransport(endpoint, limits=HttpLimits(max_response_bytes=LIMIT))
    try:
        return await transport.send(HttpRequest("GET", "/api/v1/healthz", retries=False))
    finally:
        await transport.aclose()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("encoding", BOMBS)
def test_a_bomb_is_a_malformed_answer(encoding: str, status: int) -> None:
    """With no more memory than the limit."""
    body = bomb(encoding)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedAnswer, match="larger than"):
            asyncio.run(answered(body, encoding, status))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < LIMIT + (40 << 20)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", b"{}"),
        ("zstd", b"{}"),
        ("gzip", gzip.compress(b'{"a": "some text"}', mtime=0)[:-4]),
        ("gzip, gzip, gzip, gzip", b"{}"),
    ],
)
def test_a_body_in_another_encoding_is_a_malformed_answer(encoding: str, body: bytes) -> None:
    """Unknown, wrong, cut, or too many of them."""
    with pytest.raises(CrucibleError) as caught:
        asyncio.run(answered(body, encoding))

    assert isinstance(caught.value, MalformedAnswer)


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "deflate"])
def test_an_encoded_answer_is_read(encoding: str) -> None:
    """And a byte order mark before it is skipped."""
    encode = {"zstd": zstandard.compress, "gzip": gzip.compress, "deflate": zlib.compress}[encoding]

    assert asyncio.run(answered(encode(b'\xef\xbb\xbf{"a": 1}'), encoding)).content == b'{"a": 1}'


@pytest.mark.parametrize("encoding", BOMBS)
@pytest.mark.parametrize("headers", [{}, {"X-Idempotency-Key": "k"}], ids=["once", "idempotent"])
def test_the_dev_server_refuses_a_bomb(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, encoding: str, headers: dict[str, str]
) -> None:
    """With 413, while it goes on to answer others."""
    for module in (exchange, gate):
        monkeypatch.setattr(module, "MAX_BODY_BYTES", LIMIT)
    with httpx.Client(base_url=f"{server.url}/api/v1", headers={"X-API-Key": "tml-x", **headers}) as client:
        path = "create_session"
        assert client.post(path, content=bomb(encoding), headers={"content-encoding": encoding}).status_code == 413
        assert client.post(path, content=b"{}", headers={"content-encoding": "br"}).status_code == 415
        assert client.get("healthz").status_code == 200
