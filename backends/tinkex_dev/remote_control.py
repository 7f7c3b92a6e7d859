"""Client of the admin routes, for a server in this process or another."""

import json
import urllib.request
from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import BaseModel


class RemoteControl(ABC):
    """Injects faults, and reads the effect log and digests of weights. Blocking; for tests and the demo."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The server's base URL."""

    def fault(self, fault: BaseModel | None = None, **fields: object) -> None:
        """Inject a fault: one of :mod:`backends.tinkex_dev.faults`, or its fields with ``kind``."""
        self._call("POST", "faults", fault.model_dump(mode="json") if fault is not None else fields)

    def faults(self) -> list[dict[str, Any]]:
        """The scheduled faults."""
        scheduled: list[dict[str, Any]] = self._call("GET", "faults")["faults"]
        return scheduled

    def clear_faults(self) -> None:
        """Cancel the scheduled faults."""
        self._call("DELETE", "faults")

    def log(self, *, model_id: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """The effect log: every operation that took effect, in order."""
        query = {key: value for key, value in (("model_id", model_id), ("kind", kind)) if value is not None}
        entries: list[dict[str, Any]] = self._call("GET", f"log?{urlencode(query)}")["entries"]
        return entries

    def live_runs(self) -> list[dict[str, Any]]:
        """The loaded models, with their optimizer steps and next seq_id."""
        runs: list[dict[str, Any]] = self._call("GET", "runs")["runs"]
        return runs

    def weights_digest(self, run_id: str) -> str:
        """SHA-256 of a live model's weights and optimizer state."""
        return str(self._call("GET", f"runs/{quote(run_id, safe='')}/weights_digest")["digest"])

    def checkpoint_digest(self, path: str) -> str:
        """The same digest of the state that a checkpoint was saved from."""
        return str(self._call("GET", f"checkpoints/digest?{urlencode({'path': path})}")["digest"])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/dev/{path}", data=data, method=method)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None
