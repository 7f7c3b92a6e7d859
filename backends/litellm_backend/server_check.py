"""Health check of the server at ``api_base``."""

from pydantic import JsonValue

from crucible.backend import Health
from crucible.http.new_connections import NewConnections


async def check_server(address: str, key: str | None) -> Health:
    """Request the list of models. Healthy unless the server fails with 5xx, refuses the key or is unreachable."""
    import httpx

    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    details: dict[str, JsonValue] = {"api_base": address}
    try:
        hooks = {"request": [NewConnections().watch]}
        async with httpx.AsyncClient(timeout=10.0, event_hooks=hooks) as client:
            status = (await client.get(f"{address.rstrip('/')}/models", headers=headers)).status_code
    except httpx.HTTPError as exc:
        return Health(ok=False, reason=f"{address} cannot be reached: {exc!r}", details=details)
    if status in (401, 403) and key is not None:
        return Health(ok=False, reason=f"{address} refused the credential (HTTP {status})", details=details)
    return Health(ok=status < 500, reason=None if status < 500 else f"HTTP {status}", details=details)
