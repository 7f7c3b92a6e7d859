"""The admin routes from Python: the same for a server in this process and in another."""

import json
import urllib.request
from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import BaseModel


class RemoteControl(ABC):
    """Breaks the server on command and looks at what it really did. Blocking; for tests and the demo."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the server listens."""

    def fault(self, fault: BaseModel | None = None, **fields: object) -> None:
        """Place a fault: one of :mod:`backends.tinkex_dev.faults`, or its fields with ``kind``."""
        self._call("POST", "faults", fault.model_dump(mode="json") if fault is not None else fields)

    def faults(self) -> list[dict[str, Any]]:
        """The faults that wait for their moment."""
        found: list[dict[str, Any]] = self._call("GET", "faults")["faults"]
        return found

    def clear_faults(self) -> None:
        """Take back the faults that wait."""
        self._call("DELETE", "faults")

    def log(self, *, model_id: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """What took effect, in order."""
        asked = {key: value for key, value in (("model_id", model_id), ("kind", kind)) if value is not None}
        found: list[dict[str, Any]] = self._call("GET", f"log?{urlencode(asked)}")["entries"]
        return found

    def live_runs(self) -> list[dict[str, Any]]:
        """The models that are loaded, with their optimizer steps and next seq_id."""
        found: list[dict[str, Any]] = self._call("GET", "runs")["runs"]
        return found

    def weights_digest(self, run_id: str) -> str:
        """SHA-256 of a live model's weights and optimizer state."""
        return str(self._call("GET", f"runs/{quote(run_id, safe='')}/weights_digest")["digest"])

    def checkpoint_digest(self, path: str) -> str:
        """The same digest, of what a checkpoint was saved from."""
        return str(self._call("GET", f"checkpoints/digest?{urlencode({'path': path})}")["digest"])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/dev/{path}", data=data, method=method)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None
