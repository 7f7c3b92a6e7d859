"""A service that echoes the key: no error of the client shows it, whatever the status and the form."""

import asyncio
import json
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest

from backends.tinkex import RetryConfig, ServiceClient
from crucible import CrucibleError

KEY = "tml-Zq81/0123456789+Wv"
FORMS: dict[str, Callable[[str], bytes]] = {
    "text": lambda key: f"the key {key} is wrong".encode(),
    "detail": lambda key: json.dumps({"detail": f"the key {key} is wrong"}).encode(),
    "detail of a field": lambda key: json.dumps({"detail": [{"loc": ["body", key], "msg": key}]}).encode(),
    "wrong types": lambda key: json.dumps({"detail": [{"loc": 5, "msg": {key: [key]}}]}).encode(),
    "URL-encoded": lambda key: json.dumps({"error": quote(key, safe="")}).encode(),
    "split": lambda key: json.dumps({"message": f'"{key[:9]}" "{key[9:]}"'}).encode(),
    "no JSON": lambda key: b'{"detail": "' + key.encode(),
}


async def refused(body: bytes, status: int) -> CrucibleError:
    """The error of a client's first request to a server that answers so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} X\r\nX-Request-Id: {KEY}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    service = ServiceClient(KEY, url, retry=RetryConfig(give_up_after_s=0.0))
    try:
        with pytest.raises(CrucibleError) as caught:
            await service.get_server_capabilities_async()
        return caught.value
    finally:
        await service.aclose()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("status", [400, 401, 402, 404, 409, 422, 429, 500])
@pytest.mark.parametrize("form", FORMS)
def test_an_echoed_key_shows_nowhere(form: str, status: int) -> None:
    """In its text, its repr, its data, and its causes."""
    error = asyncio.run(refused(FORMS[form](KEY), status))

    shown = f"{error}{error!r}{error.failure()}" + "".join(traceback.format_exception_only(error))
    assert type(error).__module__.endswith("errors")
    assert not [KEY[start : start + 8] for start in range(len(KEY) - 7) if KEY[start : start + 8] in shown]
